"""`generate`: faces from noise, best first: an image grid, one file per face, a list of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands import faces, flags, places, runs
from config import file_name, flag, option
from gan import job
from gan.console import result, say, shown
from gan.errors import Refused

if TYPE_CHECKING:
    import torch

    from gan import ranking, sample
    from gan.data import Images


@dataclass(frozen=True)
class GenerateOptions:
    """What `generate` takes besides the settings of a run."""

    best: bool = option(True, "draw with the best-scored state of the run, not the newest")
    gen_num: int = option(64, "faces to keep", low=1, high=10**9)
    gen_search_num: int = option(512, "candidates to draw and rank", low=1)
    rank_by: str = option(
        "",
        "rank by consensus, realism, ratio, score (D's) or none; empty: consensus, or score for "
        "bare weights",
        choices=("", "consensus", "realism", "ratio", "score", "none"),
    )
    diverse: bool = option(
        False, "of the best, keep those that differ most, and no near-copies of training images"
    )
    gen_mean: float = option(0.0, "mean of the noise", low=-1000, high=1000)
    gen_std: float = option(1.0, "standard deviation of the noise", above=0, high=1000)
    label: str = option("", "class, of a conditional run: cat, 7, cat+dog or cat:0.3+dog:0.7")
    gen_img: str = option("result.png", "image grid to write, best face first")
    gen_dir: str = option("", "folder for one file per face, and a contact sheet")
    gen_format: str = option(
        "png", "of these files: png, webp or jpg", choices=("png", "webp", "jpg")
    )
    gen_index: str = option("", "draw these candidates again: 17 or 17,4,99")
    seeds: str = option("", "one face a seed, the first of each, in this order: 0-35 or 3,14")
    trunc: float = option(
        0.0,
        "cut the noise off at plus and minus this (0: not): 2 calms colours, 1.5 changes little, "
        "at 1 hair frays and contrast goes, as G knows only noise of full length; styles behind "
        "the mapping network of modern are not cut; for better faces rank them",
        low=0,
        high=100,
    )
    like: str = option(
        "", "draw the nearest face to this picture instead, found by gradient descent"
    )
    columns: int = option(8, "faces in a row of the grid", low=1, high=1000)
    upscale: int = option(1, "enlarge the faces: 1, 2 or 4 times", choices=(1, 2, 4))
    gap: int = option(2, "pixels between the faces of the grid", low=0, high=1000)
    gap_colour: str = option("white", "white, transparent, black or one like #336699")
    direction_1: float = option(
        0.0, "move faces along direction 1 (see the command directions)", low=-100, high=100
    )
    direction_2: float = option(0.0, "the same along direction 2", low=-100, high=100)
    direction_3: float = option(0.0, "along direction 3", low=-100, high=100)
    direction_4: float = option(0.0, "along direction 4", low=-100, high=100)
    direction_5: float = option(0.0, "along direction 5", low=-100, high=100)
    direction_6: float = option(0.0, "along direction 6", low=-100, high=100)


FLAGS = flags.CommandFlags(
    "generate",
    GenerateOptions,
    settings=(*flags.OF_DRAWING, "num_workers"),
    usage="generate [--gen-num=64] [--gen-img=faces.png] ...",
    does="Draws faces with a trained run, ranks them, and writes the best as one image grid.",
    examples=(
        "generate --name=mine --gen-num=64",
        "generate --name=mine --gen-dir=out --diverse",
        "generate --gen-index=17,4 --seed=0 --gen-img=again.png",
    ),
    meanings={
        **flags.MEANINGS_OF_LOADED_RUNS,
        "netd_path": "file of weights of D, which ranks what --netg-path draws",
        "data_path": "folder or zip of the images to rank by; empty: those of the run",
    },
    loads_run=True,
)


def check_paths(options: GenerateOptions) -> None:
    """Raise Refused for files that cannot be read or written, before anything is drawn."""
    from PIL import Image

    from gan import sheet

    picture, folder = Path(options.gen_img), Path(options.gen_dir or ".")
    if options.like and not Path(options.like).exists():
        raise Refused(f"--like={options.like}: no such file")
    if folder.exists() and not folder.is_dir():
        raise Refused(f"--gen-dir={folder}: a file, not a folder to write to")
    if picture.is_dir():
        raise Refused(f"--gen-img={picture}: a folder; give the name of a file")
    if Image.registered_extensions().get(picture.suffix.lower()) not in Image.SAVE:
        raise Refused(f"--gen-img={picture}: give it a suffix that can be written, such as .png")
    clear = sheet.colour_of(options.gap_colour, "--gap-colour")[3] < 255
    if clear and picture.suffix.lower() not in (".png", ".webp"):
        raise Refused(
            f"--gap-colour={options.gap_colour}: {picture.suffix} has no transparency; .png has"
        )


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Raise Refused for a format that cannot hold a colour picture of this width and height."""
    import io
    import struct

    from PIL import Image

    kind = Image.registered_extensions()[path.suffix.lower()]
    try:
        for probe in ((8, size[1]), (size[0], 8)):
            Image.new("RGB", probe).save(io.BytesIO(), kind)
    except (KeyError, OSError, OverflowError, ValueError, struct.error):  # by version of Pillow
        raise Refused(
            f"--gen-img={path}: {path.suffix} cannot be in colour and {size[0]:,} pixels wide, "
            f"{size[1]:,} pixels high; give .png, or a smaller --gen-num"
        ) from None


def check_counts(request: flags.Request[GenerateOptions]) -> list[int]:
    """The numbers that `--gen-index` or `--seeds` names; raises Refused for a contradiction."""
    options = request.options
    ways = [name for name in ("gen_index", "seeds", "like") if getattr(options, name)]
    if len(ways) > 1:
        raise Refused(f"{flag(ways[0])}, {flag(ways[1])}: each says what to draw; leave one out")
    if options.seeds and "seed" in request.given:
        raise Refused("--seed, --seeds: each says what to draw; leave one out")
    if not ways or options.like:
        if options.gen_num > options.gen_search_num and not options.like:
            raise Refused(
                f"--gen-num={options.gen_num}: more than the {options.gen_search_num} candidates; "
                f"give --gen-search-num={options.gen_num} or more"
            )
        return []
    for other in ("gen_num", "gen_search_num"):
        if other in request.given:
            raise Refused(f"{flag(other)}: {flag(ways[0])} names the faces; leave one of them out")
    if options.seeds:
        return faces.numbers(options.seeds, "seeds", faces.END_OF_SEEDS)
    return faces.numbers(options.gen_index, "gen_index", faces.END_OF_INDICES)


def training_images(run: runs.LoadedRun, shares: tuple[float, ...]) -> "Images":
    """The run's images; if there are shares of classes, only those are left in `train`.

    Raises Refused if they are gone, too few, or have other classes than the run.
    """
    import numpy as np

    from gan import metrics
    from gan.data import Images

    images = runs.open_data(run.config)
    assert isinstance(images, Images)
    train = images.train
    if shares:
        if images.class_names != run.facts.class_names:
            classes = "/".join(run.facts.class_names)
            raise Refused(f"--label: the run has the classes {classes}, the data has others")
        assert images.class_indices is not None  # as there are names
        train = train[np.asarray(shares)[images.class_indices[train]] > 0]
    if len(train) < metrics.MIN_IMAGES:
        raise Refused(
            "--rank-by=consensus, realism and ratio, and --diverse, compare with training images, "
            f"and there are only {len(train)}; give --rank-by=score or none"
        )
    return replace(images, train=train)


def ranking_inputs(
    run: runs.LoadedRun,
    images: "Images | None",
    source: "sample.NoiseSource",
    device: "torch.device",
) -> "ranking.RankingInputs":
    """What a row of RANKERS makes its judge from."""
    import functools

    from gan import features, ranking, sample

    @functools.cache
    def sample_fakes() -> "torch.Tensor":
        inputs = source(ranking.RATIO_FIRST_INDEX, ranking.RATIO_SAMPLES)
        return sample.draw_uint8(run.nets.G, inputs, run.config.batch_size, device)

    real = None
    if images is not None:
        train = features.Subset(images.array, images.train)
        real = ranking.Reals(train, images.features_file)
    return ranking.RankingInputs(run.nets.D, real, sample_fakes, str(device))


def make_source(
    options: GenerateOptions, run: runs.LoadedRun, device: "torch.device"
) -> "sample.NoiseSource":
    """The noise of the candidates: cut off, scaled, and moved along directions."""
    from gan import latent, sample

    config, names = run.config, run.facts.class_names
    source = replace(
        sample.NoiseSource.of(config, len(names)),
        mean=options.gen_mean,
        std=options.gen_std,
        limit=options.trunc,
        shares=faces.class_shares(options.label, names),
    )
    amounts = faces.shifts(options)
    if not amounts:
        return source
    measured = latent.measured_faces(config, len(names))
    found = latent.directions(run.nets.G, measured, max(amounts), "weights", device)
    if max(amounts) > (count := len(found.vectors)):
        raise Refused(
            f"--direction-{max(amounts)}: there are {count} directions, as many as G has numbers "
            "of noise (--nz)"
        )
    moved = sum(amount * found.vectors[number - 1] for number, amount in amounts.items())
    assert not isinstance(moved, int)
    return replace(source, shift=tuple(moved.tolist()))


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
    source = make_source(options, run, device)
    images: Images | None = None
    if ranking.RANKERS[kind].needs_reals or options.diverse:
        try:
            images = training_images(run, source.shares)
        except Refused as error:
            if request.given & {"rank_by", "data_path"} or options.diverse:
                raise
            say(f"generate: ranked by D's score, since the run's images cannot be used ({error})")
            kind = "score"
    row, inputs = ranking.RANKERS[kind], ranking_inputs(run, images, source, device)
    judge, kind_of = row.make_judge(inputs), row.make_kinds(inputs)
    size, keep = config.batch_size, len(indices) or options.gen_num
    candidates = (
        sample.seeded_candidates(source, indices, size, device)
        if options.seeds
        else sample.chosen_candidates(source, indices, size, device)
        if indices
        else sample.first_candidates(source, options.gen_search_num, size, device)
    )
    together = not indices  # the processes of a job search among different candidates
    if not options.diverse or images is None:
        return sample.rank(run.nets.G, judge, candidates, keep, kind_of, together), kind
    pool = min(4 * keep, max(keep, options.gen_search_num // 2))
    best = sample.rank(run.nets.G, judge, candidates, pool, kind_of, together)
    train = features.Subset(images.array, images.train)
    return ranking.select_diverse(best, keep, train), kind


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Draw faces, best first; see `python main.py generate --help`."""
    request = flags.read(FLAGS, stray, words)
    options = request.options
    check_paths(options)
    indices = check_counts(request)
    places.check_checkpoint(request.settings)
    places.check_data_path(str(request.settings.get("data_path", "")))
    bare = any(name in request.settings for name in places.WEIGHTS)
    kind = options.rank_by or ("score" if bare else "consensus")
    if (options.seeds and "rank_by" not in request.given) or options.like:
        kind = "none"
    weights = Path(str(request.settings.get("netg_path", "")))
    asked = options.rank_by or "netd_path" in request.settings or kind == "none"
    if bare and not asked and runs.twin_of(weights) is None:
        say("generate: not ranked, as there are no weights of D; --netd-path gives them")
        kind = "none"
    if job.is_job():
        _join_job(request, indices)
    run = faces.load(request.settings, "generate", best=options.best, ranks=kind == "score")
    from gan import machine, sheet

    keep = 2 if options.like else len(indices) or options.gen_num
    each = run.config.img_size * options.upscale
    machine.check_memory(3 * run.config.channels * keep * each**2, f"--gen-num={keep}")
    size = sheet.grid_size(keep, options.columns, (each, each), options.gap)
    check_size(Path(options.gen_img), size)
    device = machine.pick_device(run.config.gpu)
    run.nets.G.to(device)
    run.nets.D.to(device)
    if options.like:
        draw_like(options, run, device)
        return
    best, kind = rank_faces(request, run, indices, kind, device)
    if job.is_first():
        write_faces(best, options, run, kind)


def _join_job(request: flags.Request[GenerateOptions], indices: list[int]) -> None:
    """Search with the other processes of a job; raises Refused if there is nothing to share."""
    from gan import distributed

    options = request.options
    runs.join_job(request.settings)
    if options.like or indices or options.gen_search_num < distributed.count():
        raise Refused(
            f"{distributed.count()} processes can share a search among --gen-search-num candidates "
            "only; start this without torchrun"
        )


def draw_like(options: GenerateOptions, run: runs.LoadedRun, device: "torch.device") -> None:
    """Find the face nearest to `--like`, write both side by side, and the face's noise as JSON."""
    import torch
    from PIL import Image

    from gan import data, inversion, pages, sample, sheet

    config, path = run.config, Path(options.gen_img)
    try:
        with Image.open(options.like) as picture:
            pixels = data.to_square(data.to_rgb(picture), config.img_size, config.channels)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"--like={options.like}: no picture that can be read ({error})") from None
    wanted = torch.from_numpy(pixels.copy())
    found = inversion.nearest_face(
        run.nets.G, wanted.float() / 127.5 - 1, make_source(options, run, device),
        options.gen_search_num, config.batch_size, device,
    )  # fmt: skip
    both = [
        sheet.enlarged(sheet.as_rgb(image.numpy()), options.upscale)
        for image in (wanted, found.image)
    ]
    colour = sheet.colour_of(options.gap_colour, "--gap-colour")
    sample.save_picture(sheet.grid(both, 2, gap=options.gap, colour=colour), path)
    about = {
        "checkpoint": file_name(run.source),
        "like": options.like,
        "distance": found.distance,
        "mean_difference_of_a_byte": found.pixels,
        "z": found.inputs[0][0].tolist(),
    }
    pages.write_json(path.with_suffix(".json"), about)
    result(
        f"generate: the nearest face to {options.like}, on the right: {shown(path)}; distance "
        f"{found.distance:.3f} (0: the same lite0 features), before the search {found.start:.3f}; "
        f"bytes differ by {found.pixels:.1f} on average",
        path,
    )


def write_faces(
    best: "sample.Ranked", options: GenerateOptions, run: runs.LoadedRun, kind: str
) -> None:
    """Write the image grid, one file per face if asked for, and the JSON list of the faces."""
    from gan import ranking, sample, sheet

    path, folder = Path(options.gen_img), Path(options.gen_dir)
    listed: list[dict[str, object]] = []
    pictures = [sheet.enlarged(sample.as_picture(image), options.upscale) for image in best.images]
    for place, (picture, score, number) in enumerate(
        zip(pictures, best.scores.tolist(), best.indices.tolist(), strict=True)
    ):
        seed, index = (number, 0) if options.seeds else (run.config.seed, number)
        face: dict[str, object] = {"place": place, "seed": seed, "index": index}
        if kind != "none":
            face[kind] = score
        if options.gen_dir:
            name = f"{place:04}_{'seed' if options.seeds else ''}{number}.{options.gen_format}"
            sample.save_picture(picture, folder / name)
            face["file"] = str(folder / name)
        listed.append(face)
    colour = sheet.colour_of(options.gap_colour, "--gap-colour")
    grid = sheet.grid(pictures, options.columns, gap=options.gap, colour=colour)
    sample.save_picture(grid, path)
    listing = path.with_suffix(".json")
    about = {
        "checkpoint": file_name(run.source),
        "ranked_by": kind,
        "gen_mean": options.gen_mean,
        "gen_std": options.gen_std,
        "label": options.label,
        "trunc": options.trunc,
        "directions": faces.shifts(options),
        "faces": listed,
    }
    listing.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    order = ranking.RANKERS[kind].order
    result(f"generate: {len(listed)} faces from {run.source}, {order}: {shown(path)}", path)
    say(f"generate: seed, index and score of each: {listing}")
    if options.gen_dir:
        captions = [
            f"{'seed ' if options.seeds else ''}{number}" for number in best.indices.tolist()
        ]
        contact = folder / f"contact.{options.gen_format}"
        sample.save_picture(sheet.grid(pictures, options.columns, captions=captions), contact)
        others = sum(1 for file in folder.iterdir()) - len(listed) - 1
        beside = f", beside {others} files that are not of these" if others else ""
        say(f"generate: one file a face, and {contact.name}: {options.gen_dir}{beside}")
