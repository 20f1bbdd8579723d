"""Train GANs that draw faces, and draw ranked faces with them.

python main.py train --help
python main.py generate --help
"""

import difflib
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config as knobs
from gan.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from gan import data, loop
    from models import Family, Nets

    Load = Callable[[Nets], None]

USAGE = """Train GANs that draw faces, and draw ranked faces with them.

  python main.py train [--data-path=FOLDER_OR_ZIP] [--max-minutes=60] [--gpu=True] ...
  python main.py train --resume
  python main.py generate [--gen-num=64] [--gen-img=faces.png] ...
  python main.py evaluate [--fake-path=FOLDER_OR_ZIP] ...
  python main.py compare --g-every=1,5 --seeds=2 [--max-minutes=10] ...
  python main.py COMMAND --help     all flags of a command, with their defaults

Weights go to checkpoints/, previews to imgs/, curves to runs/ (tensorboard --logdir runs)."""


def room(kind: str, name: str) -> Path:
    """The folder of run `name` in `checkpoints`, `imgs` or `runs`."""
    return Path(kind) / name if name else Path(kind)


def command_to_resume(config: knobs.Config) -> str:
    return f"python main.py train{f' --name={config.name}' if config.name else ''} --resume"


def find_state(resume: bool | str, name: str) -> tuple[Path, dict[str, Any]]:
    """The newest valid state of run `name`, or the one named."""
    from gan import checkpoint

    if isinstance(resume, str):
        path = Path(resume)
        return path, checkpoint.load(path)
    folder = room("checkpoints", name)
    for path, state in checkpoint.newest(folder):
        return path, state
    if (best := folder / "best.pth").exists():
        return best, checkpoint.load(best)
    raise Refused(
        f"--resume: no valid state in {folder}; start the run without --resume, or name another "
        "one with --name=..."
    )


def earlier_run(config: knobs.Config) -> list[Path]:
    """The files of an earlier run of this name."""
    files = []
    for kind, patterns in {
        "checkpoints": ("state_*.pth", "best.pth", "netg_*.pth", "netd_*.pth", "config.json"),
        "imgs": ("[0-9]*.png",),
        "runs": ("log.jsonl", "events.out.tfevents.*"),
    }.items():
        files += [file for p in patterns for file in room(kind, config.name).glob(p)]
    return [file for file in files if file.suffix != ".png" or file.stem.isdecimal()]


def holds_work(config: knobs.Config) -> bool:
    """Whether an earlier run of this name left weights or pictures."""
    return any(file.suffix in (".pth", ".png") for file in earlier_run(config))


def check_branch(path: Path, config: knobs.Config) -> None:
    """Refuse to go on from `path` in the folder of another run; tell what going back gives up."""
    from gan import checkpoint

    folder = room("checkpoints", config.name)
    if path.parent.resolve() != folder.resolve():
        if holds_work(config):
            raise Refused(f"--resume={path}: {folder} holds another run; give another --name=...")
        return
    later = [state for state in checkpoint.states(folder) if state.name > path.name]
    if path.name.startswith("state_") and later:
        print(f"resume: going back; the first save will delete {', '.join(p.name for p in later)}")


def configured(flags: dict[str, Any]) -> knobs.Config:
    """The config of a new run: with `--config`, that file's knobs lie between."""
    file: dict[str, Any] = knobs.read_file(flags["config"]) if "config" in flags else {}
    return layered(file, {name: value for name, value in flags.items() if name != "config"})


def layered(file: dict[str, Any], flags: dict[str, Any]) -> knobs.Config:
    """Defaults below the family's below the file's below the flags."""
    from models import family_of

    family = family_of(flags.get("family", file.get("family", knobs.Config.family)))
    return knobs.resolve(family.defaults, file, flags)


def set_up(flags: dict[str, Any]) -> tuple[knobs.Config, dict[str, Any] | None, list[Any]]:
    """Config, state to go on from, and what the log should say of it."""
    if flags.get("resume"):
        for other in ("config", "overwrite", "netg_path", "netd_path"):
            if flags.get(other):
                raise Refused(f"{knobs.flag(other)}: not with --resume; the run has its own")
        path, saved = find_state(flags["resume"], flags.get("name", ""))
        if not isinstance(saved, dict) or "config" not in saved:
            raise Refused(f"--resume={path}: not a training state")
        print(f"resume: {path}")
        own = {k: v for k, v in saved["config"].items() if k in knobs.FIELDS}
        own["gpu"] = own["gpu"] and "auto"  # this may be another machine
        changed = knobs.changes(own, flags)
        for name, (old, new) in changed.items():
            print(f"resume: {knobs.flag(name)} {old} -> {new}")
        config = knobs.resolve(own, flags)
        check_branch(path, config)
        if "lr1" in changed or "lr2" in changed:
            saved["rescues"] = 0  # rates that were chosen are not halved
        return config, saved, [{"event": "resume", "state": str(path), "changed": changed}]
    config = configured(flags)
    if not config.overwrite and holds_work(config):
        raise Refused(
            f"{room('checkpoints', config.name)} holds an earlier run; --resume goes on with it, "
            "--name=... starts another beside it, --overwrite replaces it"
        )
    return config, None, [{"event": "start"}]


def train(*stray: str, **options: str) -> None:
    """Train a GAN: see `python main.py train --help`."""
    flags = knobs.read_flags("train", stray, options)
    from gan import loop
    from gan.device import keep_memory

    config, saved, events = set_up(flags)
    keep_memory()
    family, device, images, load = opened(config)

    def start(nets: "Nets") -> None:
        load(nets)
        given = {Path(path).resolve() for path in (config.netg_path, config.netd_path) if path}
        for file in earlier_run(config):  # only now that data and weights are known to be good
            if file.resolve() not in given:
                file.unlink()

    folders = loop.Folders(*(room(kind, config.name) for kind in ("checkpoints", "imgs", "runs")))
    print(f"train: {config.family} {config.img_size} px on {device}; Ctrl-C saves and stops")
    try:
        done = loop.fit(
            family,
            config,
            images,
            folders,
            device,
            saved=saved,
            start=start if saved is None else None,
            score=scorer(images, device),
            events=events,
        )
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        raise Refused(
            f"--batch-size={config.batch_size}: out of memory; take a smaller one"
        ) from None
    print(
        f"train: {done.images:,} images, epoch {done.epoch}, {done.seconds / 60:.1f} minutes; "
        f"state {done.state}, preview {folders.imgs / f'{done.epoch}.png'}"
    )
    if done.signal is not None:
        print(f"stopped; go on with: {command_to_resume(config)}")
        sys.exit(128 + done.signal)


def opened(config: knobs.Config) -> "tuple[Family, torch.device, data.Images, Load]":
    """All that a run needs: its row, its device, its images, and what gives nets their weights."""
    from gan import data
    from gan.device import pick_device
    from models import family_of

    family, device = family_of(config.family), pick_device(config.gpu)
    images = data.open_images(
        config.data_path,
        config.img_size,
        config.channels,
        Path("data/cache"),
        batch_size=config.batch_size,
        workers=config.num_workers,
        held_out=config.held_out,
        dedup=config.dedup,
    )
    return family, device, images, given_weights(config)


def scorer(images: "data.Images", device: "torch.device") -> "loop.Score | None":
    """What rates drawn pictures in mid-run: KID and coverage against the held-out images."""
    from gan import features, metrics

    if len(images.held_out) < 8:
        print("data: too few images are held out; the run has no scores")
        return None
    real = features.Subset(images.array, images.held_out)
    reference = features.Reference(images.folder / "features.npz")

    def score(fake: Any) -> dict[str, float]:
        found = metrics.quality(fake, real, reference=reference, device=str(device))
        values = {name: row["value"] for name, row in found.items()}
        return {"score": values.pop("score (lite0)"), **values}

    return score


def given_weights(config: knobs.Config) -> "Load":
    """A function that loads `--netg-path` and `--netd-path` into new nets; they are read now."""
    from gan import checkpoint
    from models import load_weights

    given = [
        (player, path, checkpoint.load(Path(path)))
        for player, path in (("G", config.netg_path), ("D", config.netd_path))
        if path
    ]

    def load(nets: "Nets") -> None:
        for player, path, weights in given:
            load_weights(getattr(nets, player), weights, path)

    return load


def trained(flags: dict[str, Any], ranks: bool) -> tuple["Nets", knobs.Config, str]:
    """Nets to draw (and, if it `ranks`, rank) with, their config under `flags`, and their file."""
    from gan import checkpoint
    from models import restore

    if "netg_path" in flags or "netd_path" in flags:
        return weights_given(flags, ranks)
    top = room("checkpoints", flags.get("name", ""))
    folders = [top] if "name" in flags else [top, *top.glob("*/")]
    states = [path for folder in folders for path in checkpoint.states(folder)]
    states = states or [best for folder in folders if (best := folder / "best.pth").exists()]
    states.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    if states and flags.get("best", True) and (best := states[0].with_name("best.pth")).exists():
        states.insert(0, best)
    for path in states:
        try:
            nets, saved = restore(path)
        except Refused as error:
            print(f"{error}; trying the state before it", file=sys.stderr)
            continue
        own = vars(saved)
        for name in ("img_size", "channels", "nz", "ngf", "ndf", "family"):
            if name in flags and flags[name] != own[name]:
                raise Refused(f"{knobs.flag(name)}={flags[name]}: {path} has {own[name]}")
        return nets, knobs.resolve(own, flags), str(path)
    where = f"of run {flags['name']} in {top}" if "name" in flags else f"in {top}"
    raise Refused(f"no checkpoint {where}; train first, or give --netg-path and --netd-path")


def weights_given(flags: dict[str, Any], ranks: bool) -> tuple["Nets", knobs.Config, str]:
    """Nets from bare weights; their config is the one beside them, if any, under `flags`."""
    from models import family_of

    if not flags.get("netg_path"):
        raise Refused("--netg-path: give the weights of G too")
    path = Path(flags["netg_path"])
    if ranks and "netd_path" not in flags:
        twin = path.with_name(path.name.replace("netg", "netd"))
        if twin == path or not twin.exists():
            raise Refused("--netd-path: give the weights of D, which ranks what G draws")
        flags["netd_path"] = str(twin)
    beside = path.with_name("config.json")
    saved = knobs.read_file(str(beside)) if beside.exists() else {}
    saved = {name: value for name, value in saved.items() if name not in ("netg_path", "netd_path")}
    config = layered(saved, flags)
    nets = family_of(config.family).build(config)
    given_weights(config)(nets)
    return nets, config, str(path)


def generate(*stray: str, **options: str) -> None:
    """Draw faces, best first: see `python main.py generate --help`."""
    flags = knobs.read_flags("generate", stray, options)
    from PIL import Image

    from gan import sample
    from gan.device import pick_device

    knobs.resolve(flags)
    target = flags.get("gen_img", knobs.Config.gen_img)
    if Image.registered_extensions().get(Path(target).suffix.lower()) not in Image.SAVE:
        raise Refused(f"--gen-img={target}: give it a suffix that can be written, such as .png")
    numbers = indices(flags["gen_index"]) if "gen_index" in flags else []
    nets, config, source = trained(flags, ranks=True)
    device = pick_device(flags.get("gpu", "auto"))  # not the one it was trained on
    nets.G.to(device)
    nets.D.to(device)

    def vectors(first: int, count: int) -> "torch.Tensor":
        return sample.noise(config.seed, first, count, config.nz) * config.gen_std + config.gen_mean

    if numbers:
        parts = sample.only(vectors, numbers, config.batch_size, device)
    else:
        parts = sample.candidates(vectors, config.gen_search_num, config.batch_size, device)
    best = sample.rank(nets.G, nets.D, parts, len(numbers) or config.gen_num)
    write_faces(best, config, source)


def indices(text: str) -> list[int]:
    """The numbers in "17,4"."""
    if not all(word.isdecimal() and int(word) < 2**48 for word in text.split(",")):
        raise Refused(f"--gen-index={text}: whole numbers from 0 to 2^48, with commas between")
    return [int(word) for word in text.split(",")]


def write_faces(best: Any, config: knobs.Config, source: str) -> None:
    """The grid, one file a face if asked for, and the JSON that says which face is which."""
    from gan import sample

    path = Path(config.gen_img)
    faces = []
    for place, (image, score, index) in enumerate(zip(*best, strict=True)):
        face: dict[str, Any] = {"place": place, "seed": config.seed, "index": int(index)}
        face["score"] = float(score.sigmoid())
        if config.gen_dir:
            file = Path(config.gen_dir) / f"{place:04}_{int(index)}.png"
            sample.save_picture(sample.as_picture(image), file)
            face["file"] = str(file)
        faces.append(face)
    sample.save_picture(sample.as_picture(sample.grid(best.images)), path)
    listing = path.with_suffix(".json")
    about = {
        "checkpoint": source,
        "gen_mean": config.gen_mean,
        "gen_std": config.gen_std,
        "faces": faces,
    }
    listing.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"generate: {len(faces)} faces from {source}, best first: {path}")
    print(f"generate: seed, index and score of each: {listing}")
    if config.gen_dir:
        print(f"generate: one file a face: {config.gen_dir}")


def evaluate(*stray: str, **options: str) -> None:
    """Score drawn faces against held-out ones: see `python main.py evaluate --help`."""
    flags = {"gen_num": 2000, **knobs.read_flags("evaluate", stray, options)}
    flags["gen_search_num"] = flags["gen_num"]
    from gan import data, features, metrics, report, sample
    from gan.device import pick_device

    page = Path(flags.get("report") or "evaluate.html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise Refused(f"--report={page}: a name that ends in .html")
    given = "fake_path" in flags
    asked = None if given else flags.pop("held_out", None)
    nets, config, source = (
        (None, knobs.resolve(flags), flags["fake_path"]) if given else trained(flags, ranks=False)
    )
    if asked is not None and asked != config.held_out:
        raise Refused(
            f"--held-out={asked}: the run was trained with {config.held_out}, and images that it "
            "was trained on are no test of it; leave the flag out"
        )
    cache, size, channels = Path("data/cache"), config.img_size, config.channels
    images = data.open_images(
        config.data_path, size, channels, cache, workers=config.num_workers,
        held_out=config.held_out or knobs.Config.held_out,
    )  # fmt: skip
    device = pick_device(flags.get("gpu", "auto"))
    if not config.held_out:
        print("evaluate: this run trained on all its images; the held-out ones are no news to it")
    if nets is None:
        fakes = data.open_images(source, size, channels, cache, flag="--fake-path").array
    else:
        z = sample.noise(config.seed, 0, config.gen_num, config.nz)
        fakes = sample.draw_uint8(nets.G.to(device), z, config.batch_size, device).numpy()
    train, held_out = (features.Subset(images.array, p) for p in (images.train, images.held_out))
    reference = features.Reference(images.folder / "features.npz")
    found = metrics.evaluate(fakes, train, held_out, config.features, reference, str(device))
    found = {"drawn_by": source, "data": config.data_path or "avatars", **found}
    print(report.table(found))
    report.write_page(page, found, pictures(found, fakes, train))
    print(f"evaluate: page {page}, numbers {page.with_suffix('.json')}")


def pictures(found: dict[str, Any], fakes: Any, train: Any) -> dict[str, Any]:
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


def tried(config: knobs.Config) -> "data.Images":
    """The images of a new run of `config`, all else that it needs tried out too."""
    family, _, images, load = opened(config)
    load(family.build(config))
    return images


def compare(*stray: str, **options: str) -> None:
    """Train a grid of settings and draw them on one page: see `python main.py compare --help`."""
    whole, grid = knobs.cells(stray, options)
    import cells

    again = [f"{knobs.flag(name)}={text}" for name, text in options.items()]
    command = f"python main.py compare {shlex.join(again)}"
    if code := cells.play(whole, grid, configured, tried, command):
        sys.exit(code)


COMMANDS = {"train": train, "generate": generate, "evaluate": evaluate, "compare": compare}


def run(words: list[str]) -> None:
    """One call of the command line."""
    if not words or words[0] in ("--help", "-h", "help"):
        print(USAGE)
        return
    command, *rest = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise Refused(f"{command}: no such command; {hint}")
    if any(word in ("--help", "-h") for word in rest):
        print(knobs.help_table(command))
        return
    if "-" in rest or "--" in rest:
        raise Refused("-: a stray word; flags are --x=y")
    import fire
    from fire.decorators import SetParseFn

    # Fire guesses types; here every value arrives as the word it is and `config.py` reads it.
    fire.Fire({command: SetParseFn(str)(COMMANDS[command])}, command=words, name="main.py")


def main() -> None:
    warnings.formatwarning = lambda message, *_: f"{message}\n"
    for stream in (sys.stdout, sys.stderr):  # file names need not be text
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        run(sys.argv[1:])
    except Refused as error:
        print(f"main.py: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # no rights, no room: nothing a traceback would explain
        print(f"main.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped at once; what was saved before goes on with --resume", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
