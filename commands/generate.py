"""`generate`: faces from noise, best first: an image grid, one file per face, a list of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands import flags, runs
from config import flag, option
from gan.errors import Refused

if TYPE_CHECKING:
    import torch

    from gan import sample
    from gan.data import Images


@dataclass(frozen=True)
class GenerateOptions:
    """What `generate` takes besides the settings of a run."""

    best: bool = option(True, "draw with the best-scored state of the run, not the newest")
    gen_num: int = option(64, "faces to keep", low=1)
    gen_search_num: int = option(512, "candidates to draw and rank", low=1)
    rank_by: str = option(
        "",
        "rank by realism, ratio, score (D's) or none; empty: realism, or score for bare weights",
        choices=("", "realism", "ratio", "score", "none"),
    )
    diverse: bool = option(
        False, "of the best, keep those that differ most, and no near-copies of training images"
    )
    gen_mean: float = option(0.0, "mean of the noise", low=-1000, high=1000)
    gen_std: float = option(1.0, "standard deviation of the noise", above=0, high=1000)
    label: str = option("", "class to draw, of a conditional run: its name or number")
    gen_img: str = option("result.png", "image grid to write, best face first")
    gen_dir: str = option("", "folder for one file per face")
    gen_index: str = option("", "draw these candidates again: 17 or 17,4,99")


FLAGS = flags.CommandFlags(
    "generate",
    GenerateOptions,
    settings=(*flags.OF_DRAWING, "num_workers"),
    usage="generate [--gen-num=64] [--gen-img=faces.png] ...",
)


def check_paths(options: GenerateOptions) -> None:
    """Raise Refused for a file or folder that cannot be written, before anything is drawn."""
    from PIL import Image

    picture, folder = Path(options.gen_img), Path(options.gen_dir or ".")
    if folder.exists() and not folder.is_dir():
        raise Refused(f"--gen-dir={folder}: a file, not a folder to write to")
    if picture.is_dir():
        raise Refused(f"--gen-img={picture}: a folder; give the name of a file")
    if Image.registered_extensions().get(picture.suffix.lower()) not in Image.SAVE:
        raise Refused(f"--gen-img={picture}: give it a suffix that can be written, such as .png")


def check_height(path: Path, height: int) -> None:
    """Raise Refused for a format that cannot hold a colour picture of `height` pixels."""
    import io

    from PIL import Image

    kind = Image.registered_extensions()[path.suffix.lower()]
    try:
        Image.new("RGB", (8, height)).save(io.BytesIO(), kind)
    except (KeyError, OSError, OverflowError, ValueError):
        raise Refused(
            f"--gen-img={path}: {path.suffix} cannot be in colour and {height:,} pixels high; "
            "give .png, or a smaller --gen-num"
        ) from None


def check_counts(request: flags.Request[GenerateOptions]) -> list[int]:
    """The indices that `--gen-index` names; raises Refused for flags that contradict each other."""
    options = request.options
    if not options.gen_index:
        if options.gen_num > options.gen_search_num:
            raise Refused(
                f"--gen-num={options.gen_num}: more than the {options.gen_search_num} candidates; "
                f"give --gen-search-num={options.gen_num} or more"
            )
        return []
    for other in ("gen_num", "gen_search_num"):
        if other in request.given:
            raise Refused(f"{flag(other)}: --gen-index names the faces; leave one of them out")
    words = options.gen_index.split(",")
    if not all(word.isdecimal() and int(word) < 2**48 for word in words):
        text = options.gen_index
        raise Refused(f"--gen-index={text}: whole numbers from 0 to 2^48, with commas between")
    return [int(word) for word in words]


def class_index(label: str, names: tuple[str, ...]) -> int | None:
    """Which class `--label` asks for, by its name or its number."""
    if not label:
        return None
    if label in names:
        return names.index(label)
    if not names:
        raise Refused(f"--label={label}: this run is not conditional and has no classes")
    if label.isdecimal() and int(label) < len(names):
        return int(label)
    raise Refused(f"--label={label}: no such class; there are {', '.join(names)}")


def training_images(run: runs.LoadedRun, label: int | None) -> "Images":
    """The run's images; if there is a label, only that class is left in `train`.

    Raises Refused if they are gone, too few, or have other classes than the run.
    """
    from gan import metrics
    from gan.data import Images

    images = runs.open_data(run.config)
    assert isinstance(images, Images)
    train = images.train
    if label is not None:
        if images.class_names != run.facts.class_names:
            classes = "/".join(run.facts.class_names)
            raise Refused(f"--label: the run has the classes {classes}, the data has others")
        assert images.class_indices is not None  # as there are names
        train = train[images.class_indices[train] == label]
    if len(train) < metrics.MIN_IMAGES:
        raise Refused(
            "--rank-by=realism, --rank-by=ratio and --diverse compare with training images, and "
            f"there are only {len(train)}; leave them out"
        )
    return replace(images, train=train)


def make_judge(
    kind: str,
    run: runs.LoadedRun,
    images: "Images | None",
    source: "sample.NoiseSource",
    device: "torch.device",
) -> "sample.Judge":
    """What scores candidates: the row `kind` of RANKERS."""
    from gan import features, ranking, sample

    def sample_fakes() -> "torch.Tensor":
        inputs = source(ranking.RATIO_FIRST_INDEX, ranking.RATIO_SAMPLES)
        return sample.draw_uint8(run.nets.G, inputs, run.config.batch_size, device)

    real = None
    if images is not None and ranking.RANKERS[kind].needs_reals:
        train = features.Subset(images.array, images.train)
        real = ranking.reference_features(train, images.features_file)
    inputs = ranking.RankingInputs(run.nets.D, real, sample_fakes, str(device))
    return ranking.RANKERS[kind].make_judge(inputs)


def rank_faces(
    request: flags.Request[GenerateOptions],
    run: runs.LoadedRun,
    indices: list[int],
    kind: str,
    device: "torch.device",
) -> "tuple[sample.Ranked, str]":
    """The faces asked for, best first, and the ranker that was used in the end."""
    from gan import features, ranking, sample

    options, config = request.options, run.config
    label = class_index(options.label, run.facts.class_names)
    source = replace(
        sample.NoiseSource.of(config, len(run.facts.class_names), label),
        mean=options.gen_mean,
        std=options.gen_std,
    )
    images: Images | None = None
    if ranking.RANKERS[kind].needs_reals or options.diverse:
        try:
            images = training_images(run, label)
        except Refused as error:
            if request.given & {"rank_by", "data_path"} or options.diverse:
                raise
            print(f"generate: ranked by D's score, since the run's images cannot be used ({error})")
            kind = "score"
    judge = make_judge(kind, run, images, source, device)
    size, keep = config.batch_size, len(indices) or options.gen_num
    candidates = (
        sample.chosen_candidates(source, indices, size, device)
        if indices
        else sample.first_candidates(source, options.gen_search_num, size, device)
    )
    if not options.diverse or images is None:
        return sample.rank(run.nets.G, judge, candidates, keep), kind
    pool = min(4 * keep, max(keep, options.gen_search_num // 2))
    best = sample.rank(run.nets.G, judge, candidates, pool)
    train = features.Subset(images.array, images.train)
    return ranking.select_diverse(best, keep, train), kind


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Draw faces, best first; see `python main.py generate --help`."""
    request = flags.read(FLAGS, stray, words)
    options = request.options
    check_paths(options)
    indices = check_counts(request)
    bare = any(name in request.settings for name in runs.WEIGHTS)
    kind = options.rank_by or ("score" if bare else "realism")
    run = runs.load_run(
        request.settings, best=options.best, ranks=kind == "score", command="generate"
    )
    task = run.family.task
    if task.command != "generate":
        raise Refused(
            f"generate: {run.source} is a {run.config.family}, which draws from pictures; use "
            f"{task.command}"
        )
    from gan import machine, sample

    keep = len(indices) or options.gen_num
    check_height(Path(options.gen_img), sample.image_grid_height(keep, run.config.img_size))
    device = machine.pick_device(run.config.gpu)
    run.nets.G.to(device)
    run.nets.D.to(device)
    best, kind = rank_faces(request, run, indices, kind, device)
    write_faces(best, options, run, kind)


def write_faces(
    best: "sample.Ranked", options: GenerateOptions, run: runs.LoadedRun, kind: str
) -> None:
    """Write the image grid, one file per face if asked for, and the JSON list of the faces."""
    from gan import ranking, sample

    path = Path(options.gen_img)
    faces: list[dict[str, object]] = []
    for place, (image, score, index) in enumerate(zip(*best, strict=True)):
        face: dict[str, object] = {"place": place, "seed": run.config.seed, "index": int(index)}
        if kind != "none":
            face[kind] = float(score)
        if options.gen_dir:
            file = Path(options.gen_dir) / f"{place:04}_{int(index)}.png"
            sample.save_picture(sample.as_picture(image), file)
            face["file"] = str(file)
        faces.append(face)
    sample.save_picture(sample.as_picture(sample.image_grid(best.images)), path)
    listing = path.with_suffix(".json")
    about = {
        "checkpoint": run.source,
        "ranked_by": kind,
        "gen_mean": options.gen_mean,
        "gen_std": options.gen_std,
        "label": options.label,
        "faces": faces,
    }
    listing.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    order = ranking.RANKERS[kind].order
    print(f"generate: {len(faces)} faces from {run.source}, {order}: {path}")
    print(f"generate: seed, index and score of each: {listing}")
    if options.gen_dir:
        others = sum(1 for file in Path(options.gen_dir).iterdir()) - len(faces)
        beside = f", beside {others} files that are not of these" if others else ""
        print(f"generate: one file a face: {options.gen_dir}{beside}")
