"""Train GANs that draw faces, and draw ranked faces with them.

python main.py train --help
python main.py generate --help
"""

import dataclasses
import difflib
import json
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config as knobs
import grid
import pictures
import runs
import usage
from gan.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from gan import data, loop
    from models import Nets


# what `evaluate` takes beside --fake-path
OF_FOLDERS = (
    "fake_path", "data_path", "img_size", "channels", "held_out", "features", "report",
    "num_workers", "gpu",
)  # fmt: skip
SCORED_WITH = 2000  # held-out images, at most, that a score in mid-run compares with


def set_up(flags: dict[str, Any]) -> tuple[knobs.Config, dict[str, Any] | None, list[Any]]:
    """Config, state to go on from, and what the log should say of it."""
    if flags.get("resume"):
        for other in ("config", "overwrite", "netg_path", "netd_path"):
            if flags.get(other):
                raise Refused(f"{knobs.flag(other)}: not with --resume; the run has its own")
        path, saved = runs.find_state(flags["resume"], flags.get("name", ""))
        if not isinstance(saved, dict) or "config" not in saved:
            raise Refused(f"--resume={path}: not a training state")
        print(f"resume: {path}")
        own = {k: v for k, v in saved["config"].items() if k in knobs.FIELDS}
        own["gpu"] = own["gpu"] and "auto"  # this may be another machine
        changed = knobs.changes(own, flags)
        for name, (old, new) in changed.items():
            print(f"resume: {knobs.flag(name)} {old} -> {new}")
        config = runs.layered(own, flags)
        runs.check_branch(path, saved["step"], config)
        if "lr1" in changed or "lr2" in changed:
            saved["rescues"] = 0  # rates that were chosen are not halved
        return config, saved, [{"event": "resume", "state": str(path), "changed": changed}]
    config = runs.configured(flags)
    if not config.overwrite and runs.holds_work(config):
        raise Refused(
            f"{runs.room('checkpoints', config.name)} holds an earlier run; --resume goes on with "
            "it, --name=... starts another beside it, --overwrite replaces it"
        )
    return config, None, [{"event": "start"}]


def train(*stray: str, **options: str) -> None:
    """Train a GAN: see `python main.py train --help`."""
    flags = knobs.read_flags("train", stray, options)
    from gan import loop, machine

    config, saved, events = set_up(flags)
    runs.check_rooms(config)
    family = runs.family(config)
    machine.keep_memory()
    device, images, load = opened(config)
    rate = scorer if family.data == "images" else pictures.scorer

    def start(nets: "Nets") -> None:
        load(nets)
        given = {Path(path).resolve() for path in (config.netg_path, config.netd_path) if path}
        earlier = runs.earlier_run(config)
        if earlier:  # deleted only now that data, weights and memory are known to do
            loop.rehearse(family, config, images, device)
        for file in earlier:
            if file.resolve() not in given:
                file.unlink()

    folders = loop.Folders(
        *(runs.room(kind, config.name) for kind in ("checkpoints", "imgs", "runs"))
    )
    exact = "bfloat16" if config.amp is True else "float32"
    if saved is not None and config.amp is not machine.has_bfloat16(device):
        print(f"resume: on in {exact}, though this machine is faster in the other; --amp=auto")
    print(
        f"train: {config.family} {config.img_size} px on {device}, {exact}; Ctrl-C saves and stops"
    )
    try:
        with runs.claimed(config):
            done = loop.fit(
                family,
                config,
                images,
                folders,
                device,
                saved=saved,
                start=start if saved is None else None,
                score=rate(config, images, device),
                events=events,
            )
    except (MemoryError, RuntimeError) as error:
        if not machine.no_memory(error):
            raise
        raise Refused(
            f"--batch-size={config.batch_size}: out of memory; start a run with a smaller one, or "
            "with a smaller --img-size, --ngf, --ndf or --nz"
        ) from None
    print(
        f"train: {done.images:,} images, epoch {done.epoch}, {done.seconds / 60:.1f} minutes; "
        f"state {done.state}, preview {folders.imgs / f'{done.epoch}.png'}"
    )
    if done.signal is not None:
        print(f"stopped; go on with: {runs.command_to_resume(config)}")
        sys.exit(128 + done.signal)


def opened(config: knobs.Config) -> "tuple[torch.device, Any, Callable[[Nets], None]]":
    """Device, data and what loads given weights; `config` learns what these are able to do."""
    from gan import machine

    device = machine.pick_device(config.gpu)
    if config.amp == "auto":
        config.amp = machine.has_bfloat16(device)
    images = runs.open_data(config)
    config.classes = "/".join(classes_of(images, config))
    return device, images, runs.given_weights(config)


def classes_of(images: Any, config: knobs.Config) -> tuple[str, ...]:
    """The classes of a conditional run; raises Refused if there are none, or others than before."""
    if not config.conditional:
        return ()
    if not getattr(images, "classes", ()):
        raise Refused(
            f"--conditional: no classes in {config.data_path or 'the avatars'}; it takes one "
            "sub-folder a class, or IDX files with labels"
        )
    if config.labels and config.labels != list(images.classes):
        raise Refused(f"--resume: the run has the classes {config.classes}, the data others")
    return images.classes


def scorer(
    config: knobs.Config, images: "data.Images", device: "torch.device"
) -> "loop.Score | None":
    """What rates drawn pictures in mid-run: KID and coverage against the held-out images."""
    from gan import features, metrics

    if len(images.held_out) < 8:
        print("data: too few images are held out; the run has no scores")
        return None
    held_out = images.held_out[features.spaced(len(images.held_out), SCORED_WITH)]
    real = features.Subset(images.array, held_out)
    reference = features.Reference(images.folder / "features.npz")

    def score(fake: Any) -> dict[str, float]:
        found = metrics.quality(fake, real, reference=reference, device=str(device))
        values = {name: row["value"] for name, row in found.items()}
        return {"score": values.pop("score (lite0)"), **values}

    return score


def generate(*stray: str, **options: str) -> None:
    """Draw faces, best first: see `python main.py generate --help`."""
    flags = knobs.read_flags("generate", stray, options)
    import faces

    faces.generate(flags)


def evaluate(*stray: str, **options: str) -> None:
    """Score drawn faces against held-out ones: see `python main.py evaluate --help`."""
    asked = knobs.read_flags("evaluate", stray, options)
    flags = {"gen_num": 2000, **asked}
    flags["gen_search_num"] = flags["gen_num"]
    from gan import data, features, machine, metrics, report

    page = Path(flags.get("report") or "evaluate.html")
    given = "fake_path" in flags
    for other in asked if given else ():
        if other not in OF_FOLDERS:
            raise Refused(
                f"{knobs.flag(other)}: --fake-path is scored, and no run; leave one of them out"
            )
    held_out = None if given else flags.pop("held_out", None)
    nets, config, source = (
        (None, knobs.resolve(flags), flags["fake_path"])
        if given
        else runs.trained(flags, ranks=False)
    )
    if held_out is not None and held_out != config.held_out:
        raise Refused(
            f"--held-out={held_out}: the run was trained with {config.held_out}, and images that "
            "it was trained on are no test of it; leave the flag out"
        )
    if nets is not None and runs.family(config).data != "images":
        for other in ("features", "gen_num"):
            if other in asked:
                raise Refused(
                    f"{knobs.flag(other)}: {config.family} is scored on its test pictures, all of "
                    "them, by lite0; leave it out"
                )
        pictures.evaluate(nets, config, source, machine.pick_device(flags.get("gpu", "auto")), page)
        return
    cache, size, channels = Path("data/cache"), config.img_size, config.channels
    images = data.open_images(
        config.data_path, size, channels, cache, workers=config.num_workers,
        held_out=config.held_out or knobs.Config.held_out,
    )  # fmt: skip
    device = machine.pick_device(flags.get("gpu", "auto"))
    if not config.held_out:
        print("evaluate: this run trained on all its images; the held-out ones are no news to it")
    train, real = (features.Subset(images.array, p) for p in (images.train, images.held_out))
    if nets is not None:  # before anything is drawn
        metrics.check(config.gen_num, len(train), len(real))
        features.extractor(config.features, config.img_size, str(device))
    fakes = drawn(nets, config, source, images, "data_path" in asked, device)
    reference = features.Reference(images.folder / "features.npz")
    found = metrics.evaluate(fakes, train, real, config.features, reference, str(device))
    found = {"drawn_by": source, "data": config.data_path or "avatars", **found}
    table = report.table(found)
    print(table)
    report.write_page(page, found, table, report.NOTES, looks(found, fakes, train))
    print(f"evaluate: page {page}, numbers {page.with_suffix('.json')}")


def drawn(
    nets: "Nets | None",
    config: knobs.Config,
    source: str,
    images: "data.Images",
    other: bool,
    device: "torch.device",
) -> Any:
    """The fakes that `evaluate` scores, of nets or in a folder: uint8 [N, C, H, W].

    With the `images` of a run, not `other` ones, these are checked to be what it was trained on.
    """
    from gan import data, sample

    if nets is None:
        return data.open_images(
            source, config.img_size, config.channels, Path("data/cache"),
            workers=config.num_workers, flag="--fake-path",
        ).array  # fmt: skip
    if not other and runs.trained_on(source) not in (None, images.digest):
        print(
            f"evaluate: the images are not those that {source} was trained on; some that are "
            "held out now may have been among them",
            file=sys.stderr,
        )
    z = sample.Source.of(config, among=images.train_labels)(0, config.gen_num)
    return sample.draw_uint8(nets.G.to(device), z, config.batch_size, device).numpy()


def looks(found: dict[str, Any], fakes: Any, train: Any) -> dict[str, Any]:
    """What an evaluation shows: a random grid, and the fakes nearest to a training image."""
    import torch

    from gan import sample

    def picture(images: list[Any]) -> Any:
        stacked = torch.stack([torch.from_numpy(image.copy()) for image in images])
        return sample.as_picture(sample.grid(stacked))

    rows: list[Any] = []
    pairs = found["memorisation"]["pairs"]
    for start in range(0, len(pairs), 8):
        eight = pairs[start : start + 8]
        rows += [fakes[pair["fake"]] for pair in eight]
        rows += [train[p["train"]][..., :: -1 if p["mirrored"] else 1] for p in eight]
    return {
        "64 of them, not chosen": picture(list(fakes[:64])),
        "The closest to a training image: drawn above, training image below": picture(rows),
    }


def translate(*stray: str, **options: str) -> None:
    """Turn pictures of A into pictures of B: see `python main.py translate --help`."""
    flags = knobs.read_flags("translate", stray, options)
    if not flags.get("input"):
        raise Refused("--input: give the picture, folder or zip to translate")
    from gan import machine

    pictures.translate(flags, machine.pick_device(flags.get("gpu", "auto")))


def tried(config: knobs.Config) -> Any:
    """The data of a new run of `config`, all else that it needs tried out too."""
    config = dataclasses.replace(config)
    _, images, load = opened(config)
    load(runs.family(config).build(config))
    return images


def compare(*stray: str, **options: str) -> None:
    """Train a grid of settings and draw them on one page: see `python main.py compare --help`."""
    whole, planned = grid.cells(stray, options)
    import cells

    again = [f"{knobs.flag(name)}={text}" for name, text in options.items()]
    if code := cells.play(whole, planned, tried, f"python main.py compare {shlex.join(again)}"):
        sys.exit(code)


def export(*stray: str, **options: str) -> None:
    """Write G for other programs: see `python main.py export --help`."""
    flags = knobs.read_flags("export", stray, options)
    import torch

    from gan import export, sample

    path = Path(flags.get("file", knobs.Config.file))
    export.check(path)
    G, config, source, turned = runs.generator(flags)
    if runs.family(config).data == "images":
        given = sample.Source.of(config)(0, 2)
        what = f"noise{f', then {len(config.labels)} classes' if config.labels else ''}"
    else:
        size, what = config.img_size, "pictures"
        given = torch.rand(2, config.sides[turned], size, size) * 2 - 1
    off = export.export(G, given, path, {"config": json.dumps(dataclasses.asdict(config))})
    print(f"export: {source} in {path}, the same pictures to {off:.1g} of -1 to 1")
    print(f"export: from {what} [N, {', '.join(map(str, given.shape[1:]))}] it draws -1 to 1")


COMMANDS = {
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
    "translate": translate,
    "export": export,
    "compare": compare,
}


def run(words: list[str]) -> None:
    """One call of the command line."""
    if not words or words[0] in ("--help", "-h", "help"):
        print(usage.USAGE)
        return
    command, *rest = words = [re.sub("^--no-", "--no", word) for word in words]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise Refused(f"{command}: no such command; {hint}")
    if any(word in ("--help", "-h") for word in rest):
        print(usage.help_of(command, re.findall(r"--family[= ]([^-\s]\S*)", " ".join(rest))))
        return
    if "-" in rest or "--" in rest:
        raise Refused("-: a stray word; flags are --x=y")
    import fire
    from fire.decorators import SetParseFn

    # Fire guesses types; here every value arrives as the word it is and `config.py` reads it.
    fire.Fire({command: SetParseFn(str)(COMMANDS[command])}, command=words, name="main.py")


class Outliving:
    """A stream whose reader may leave (`| head`): what nobody reads is dropped, work goes on."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        self._do(self.stream.write, text)

    def flush(self) -> None:
        self._do(self.stream.flush)

    def _do(self, call: "Callable[..., Any]", *given: str) -> None:
        try:
            call(*given)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def main() -> None:
    warnings.formatwarning = lambda message, *_: f"{message}\n"
    # before torch is imported: what an older PyTorch cannot do on Apple's GPU it does beside it
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # `>&-`
        stream.reconfigure(errors="backslashreplace")  # file names need not be text
        setattr(sys, name, Outliving(stream))
    try:
        run(sys.argv[1:])
    except Refused as error:
        print(f"main.py: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # no rights, no room: nothing a traceback would explain
        print(f"main.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped at once, with nothing more saved", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
