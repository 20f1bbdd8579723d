"""Faces from noise: which candidates are drawn, what ranks them, where the best are written."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import config as knobs
import runs
from gan import data, features, machine, ranking, sample
from gan.errors import Refused

COMPARES = ("realism", "ratio")  # rankers that know training images


def generate(flags: dict[str, Any]) -> None:
    """Draw the faces that the flags ask for, rank them and write them."""
    knobs.resolve(flags)
    check_target(flags)
    numbers = indices(flags["gen_index"]) if "gen_index" in flags else []
    for other in ("gen_num", "gen_search_num") if numbers else ():
        if other in flags:
            raise Refused(
                f"{knobs.flag(other)}: --gen-index names the faces; leave one of them out"
            )
    bare = "netg_path" in flags or "netd_path" in flags
    kind = flags.get("rank") or ("score" if bare else "realism")
    nets, config, path = runs.trained(flags, ranks=kind == "score", translator=False)
    if runs.family(config).data != "images":
        raise Refused(
            f"generate: {path} is a {config.family}, which draws from pictures; translate"
        )
    keep = len(numbers) or config.gen_num
    check_target(flags, sample.grid_height(keep, config.img_size))
    device = machine.pick_device(flags.get("gpu", "auto"))  # not the one it was trained on
    nets.G.to(device)
    nets.D.to(device)
    label = label_number(config)
    source = sample.Source.of(config, label)
    real: Any = None
    cache: Path | None = None
    if kind in COMPARES or config.diverse:
        real, cache = real_images(config, label, wanted="rank" in flags or config.diverse)
    if kind in COMPARES and real is None:
        kind = "score"

    def vectors(first: int, count: int) -> torch.Tensor:
        z = source(first, count)
        z[:, : config.nz] = z[:, : config.nz] * config.gen_std + config.gen_mean
        return z

    def by_ratio() -> sample.Judge:
        z = vectors(ranking.ELSEWHERE, ranking.ASKED)  # whatever is drawn: a face has one score
        fakes = sample.draw_uint8(nets.G, z, config.batch_size, device)
        return ranking.by_ratio(ranking.known(real, cache), fakes, str(device))

    judge = {
        "score": lambda: ranking.by_score(nets.D, source),
        "realism": lambda: ranking.by_realism(ranking.known(real, cache), str(device)),
        "ratio": by_ratio,
        "none": lambda: ranking.in_order,
    }[kind]()
    if numbers:
        parts = sample.only(vectors, numbers, config.batch_size, device)
    else:
        parts = sample.candidates(vectors, config.gen_search_num, config.batch_size, device)
    if config.diverse:
        pool = min(4 * keep, max(keep, config.gen_search_num // 2))
        best = ranking.apart(sample.rank(nets.G, judge, parts, pool), keep, real)
    else:
        best = sample.rank(nets.G, judge, parts, keep)
    write_faces(best, config, path, kind)


def check_target(flags: dict[str, Any], height: int = 8) -> None:
    """Refuse a grid of `height` pixels, or a folder of faces, that could not be written."""
    picture = Path(flags.get("gen_img", knobs.Config.gen_img))
    folder = Path(flags.get("gen_dir") or ".")
    if folder.exists() and not folder.is_dir():
        raise Refused(f"--gen-dir={folder}: a file, not a folder to write to")
    if picture.is_dir():
        raise Refused(f"--gen-img={picture}: a folder; give the name of a file")
    kind = Image.registered_extensions().get(picture.suffix.lower(), "")
    try:
        Image.new("RGB", (8, height)).save(io.BytesIO(), kind)
    except (KeyError, OSError, OverflowError, ValueError):
        reason = (
            f"{picture.suffix} cannot be {height:,} pixels high; give .png, or a smaller --gen-num"
            if height > 8
            else "give it a suffix that can be written, such as .png"
        )
        raise Refused(f"--gen-img={picture}: {reason}") from None


def real_images(config: knobs.Config, label: int | None, wanted: bool) -> tuple[Any, Path | None]:
    """The run's training images (of one class), to rank with, and where their features are kept.

    The images are None if they are gone, or too few.
    """
    try:
        images = data.open_images(
            config.data_path, config.img_size, config.channels, Path("data/cache"),
            workers=config.num_workers, held_out=config.held_out,
        )  # fmt: skip
    except Refused as error:
        if wanted:
            raise
        print(f"generate: ranked by D's score, for the run's images are gone ({error})")
        return None, None
    places = images.train
    if label is not None and images.labels is not None:
        if list(images.classes) != config.labels:
            if wanted:
                raise Refused(f"--label: the run has the classes {config.classes}, the data others")
            print("generate: ranked by D's score, for the data have other classes than the run")
            return None, None
        places = places[images.labels[places] == label]
    if len(places) >= 8:
        return features.Subset(images.array, places), images.folder / "features.npz"
    if wanted:
        raise Refused(
            "--rank=realism, --rank=ratio and --diverse compare with training images, and there "
            f"are only {len(places)}; leave them out"
        )
    print(f"generate: ranked by D's score, for there are only {len(places)} training images")
    return None, None


def label_number(config: knobs.Config) -> int | None:
    """Which class `--label` asks for, by its name or its place."""
    if not config.label:
        return None
    labels = config.labels
    if config.label in labels:
        return labels.index(config.label)
    if not labels:
        raise Refused(f"--label={config.label}: this run is not conditional, it has no classes")
    if config.label.isdecimal() and int(config.label) < len(labels):
        return int(config.label)
    raise Refused(f"--label={config.label}: no such class; there are {', '.join(labels)}")


def indices(text: str) -> list[int]:
    """The numbers in "17,4"."""
    if not all(word.isdecimal() and int(word) < 2**48 for word in text.split(",")):
        raise Refused(f"--gen-index={text}: whole numbers from 0 to 2^48, with commas between")
    return [int(word) for word in text.split(",")]


def write_faces(best: Any, config: knobs.Config, source: str, kind: str) -> None:
    """The grid, one file a face if asked for, and the JSON that says which face is which."""
    path = Path(config.gen_img)
    faces = []
    for place, (image, score, index) in enumerate(zip(*best, strict=True)):
        face: dict[str, Any] = {"place": place, "seed": config.seed, "index": int(index)}
        if kind != "none":
            face[kind] = float(score)
        if config.gen_dir:
            file = Path(config.gen_dir) / f"{place:04}_{int(index)}.png"
            sample.save_picture(sample.as_picture(image), file)
            face["file"] = str(file)
        faces.append(face)
    sample.save_picture(sample.as_picture(sample.grid(best.images)), path)
    listing = path.with_suffix(".json")
    about = {
        "checkpoint": source,
        "ranked_by": kind,
        "gen_mean": config.gen_mean,
        "gen_std": config.gen_std,
        "label": config.label,
        "faces": faces,
    }
    listing.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    order = {
        "none": "as drawn",
        "score": "best D score first",
        "realism": "most real first",
        "ratio": "most like real ones first",
    }[kind]
    print(f"generate: {len(faces)} faces from {source}, {order}: {path}")
    print(f"generate: seed, index and score of each: {listing}")
    if config.gen_dir:
        others = sum(1 for file in Path(config.gen_dir).iterdir()) - len(faces)
        beside = f", beside {others} files that are not of these" if others else ""
        print(f"generate: one file a face: {config.gen_dir}{beside}")
