"""Pictures to pictures: what scores a translation, and `translate` itself."""

import html
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config as knobs
import runs
from gan.errors import Refused

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

    from gan.pairs import Sides

SHOWN = 24  # test pictures on the page of `evaluate`
NOTES = """L1 and KID: lower is better. PSNR, SSIM and coverage: higher is better. "unchanged" is
what the given pictures score as they are: a translation that is worth its time beats it."""
SMALLEST = 5  # pixels on a side: less is nothing after CycleGAN's two halvings
LARGEST = 4_000_000  # pixels of a picture that is translated as it is
PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>img {{ max-width: 49%; vertical-align: top }} body {{ font: 16px system-ui }}</style>
<h1>{title}</h1>
"""


def against_pairs(fakes: Any, wanted: Any) -> dict[str, float]:
    """Mean L1 (0..1), PSNR (dB) and SSIM (-1..1) of uint8 [N, C, H, W], by torchmetrics."""
    import torch
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    found: dict[str, list[Any]] = {"L1": [], "PSNR": [], "SSIM": []}
    for i in range(0, len(fakes), 64):
        x, y = (torch.tensor(side[i : i + 64]).float() / 255 for side in (fakes, wanted))
        noise = peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))
        found["L1"].append((x - y).abs().mean((1, 2, 3)))
        found["PSNR"].append(noise.clamp(max=100))  # equal pictures would be infinitely good
        found["SSIM"].append(
            structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
        )
    return {name: float(torch.cat(parts).mean()) for name, parts in found.items()}


def scorer(
    config: knobs.Config, data: "Sides", device: "torch.device"
) -> "Callable[[Any], dict[str, float]] | None":
    """What rates translated test pictures in mid-run: "score" is L1 of pairs, else the KID."""
    from gan import features, metrics

    _, wanted = config.turned((data.test_a, data.test_b))
    if len(wanted) < 8:
        print("data: too few pictures are kept to score with; the run has no scores")
        return None
    reference = features.Reference(data.folder / "features.npz")

    def score(fakes: Any) -> dict[str, float]:
        found = metrics.quality(fakes, wanted, reference=reference, device=str(device))
        values = {name: row["value"] for name, row in found.items()}
        kid = values.pop("score (lite0)")
        if not data.test_paired:
            return {"score": kid, **values}
        pairs = against_pairs(fakes, wanted[features.spaced(len(wanted), len(fakes))])
        return {"score": pairs["L1"], **pairs, "KID (lite0), both sizes": kid, **values}

    return score


def evaluate(
    nets: Any, config: knobs.Config, source: str, device: "torch.device", page: Path
) -> None:
    """Print the scores of a run's test pictures, beside those of doing nothing; then the page."""
    import torch

    from gan import feed, report, sample

    data = runs.open_data(config)
    given, wanted = config.turned((data.test_a, data.test_b))
    rate = scorer(config, data, device)
    if rate is None:
        raise Refused(
            "evaluate: fewer than 8 test pictures; add some in test/, or in testA/ and testB/"
        )
    G = nets.G.to(device)
    drawn = torch.cat(
        [
            sample.draw_uint8(G, feed.to_real(given[i : i + 64], device), config.batch_size, device)
            for i in range(0, len(given), 64)
        ]
    )
    rows = {"drawn": rate(drawn.numpy())}
    if given.shape[1] == wanted.shape[1]:
        rows["unchanged"] = rate(given[:])
    print(f"evaluate: {source}, {len(given):,} test pictures, {config.direction}")
    names = [name for name in rows["drawn"] if name != "score"]
    table = report.aligned(
        [
            ["score", *rows],
            *([name, *(f"{row[name]:.4f}" for row in rows.values())] for name in names),
        ]
    )
    print(table)
    found = {"drawn_by": source, "n_fake": len(given), "data": config.data_path, "scores": rows}
    shown = feed.FromPictures(config, data, device).rows(nets.G, SHOWN)
    third = "drawn back" if hasattr(nets.G, "back") else "wanted"
    looks = {f"Given, drawn, {third}": sample.as_picture(shown)}
    report.write_page(page, found, table, NOTES, looks)
    print(f"evaluate: page {page}, numbers {page.with_suffix('.json')}")


def _out_name(name: str, taken: set[str]) -> Path:
    """`a/b.jpg` -> a/b.png, as long as that is free."""
    path, full = Path(name).with_suffix(".png"), name
    while str(path) in taken:
        full = f"{full}.png"
        path = Path(full)
    taken.add(str(path))
    return path


def drawn_from(
    G: "nn.Module", picture: "Image.Image", size: int | None, device: "torch.device"
) -> "Image.Image":
    """One picture through G, in its own size; with `size` at that size, and enlarged again."""
    import numpy as np
    import torch
    from PIL import Image

    from gan import feed, sample

    own = picture.size
    if size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)
    with torch.no_grad():
        drawn = G(feed.to_real(pixels[None].copy(), device))
    result = sample.as_picture(sample.to_uint8(drawn)[0])
    return result.resize(own, Image.Resampling.BICUBIC) if size else result


def translate(flags: dict[str, Any], device: "torch.device") -> None:
    """Translate each picture of `--input` into `--output`, one at a time."""
    from gan import machine, pairs, sample

    G, config, source, turned = runs.generator(flags, translator=True)
    if runs.family(config).data == "images":
        raise Refused(f"translate: {source} is a {config.family}, which draws from noise; generate")
    given, out = (Path(path).resolve() for path in (config.input, config.output))
    if given in (out, *out.parents) or out / given.with_suffix(".png").name == given:
        raise Refused(f"--output={config.output}: it would mix with --input; give another folder")
    G.to(device).eval()
    channels = config.sides[turned]
    found: Iterator[tuple[str, Any]] = pairs.stream(config.input, "--input", channels)
    folder, taken, failed, rows = Path(config.output), set[str](), [], []

    def place(name: str) -> Path:
        path = folder / _out_name(name, taken)
        if given in (path.resolve(), *path.resolve().parents):
            raise Refused(f"--output={folder}: {path} is in --input; give another folder")
        return path

    for name, picture in found:
        if isinstance(picture, str):
            failed.append(f"{name}: {picture}")
            continue
        if not config.resize and picture.width * picture.height > LARGEST:
            failed.append(f"{name}: larger than {LARGEST:,} pixels; give --resize")
            continue
        if not config.resize and min(picture.size) < SMALLEST:
            failed.append(f"{name}: less than {SMALLEST} pixels on a side; give --resize")
            continue
        path = place(name)
        before = place(f"given/{name}") if config.side_by_side else path
        try:
            drawn = drawn_from(G, picture, config.img_size if config.resize else None, device)
        except (MemoryError, RuntimeError) as error:
            if not machine.no_memory(error):
                raise
            failed.append(f"{name}: not enough memory for it; give --resize")
            continue
        sample.save_picture(drawn, path)
        rows.append((name, before, path))
        if config.side_by_side:
            sample.save_picture(picture, before)
    if config.side_by_side:
        _write_page(Path(config.side_by_side), rows)
    print(f"translate: {len(rows):,} pictures from {source} in {folder}")
    if failed:
        raise Refused(f"{len(failed)} skipped: {'; '.join(failed[:5])}")


def _write_page(page: Path, rows: list[tuple[str, Path, Path]]) -> None:
    parts = [PAGE.format(title="Before and after")]
    for name, before, path in rows:
        sources = [os.path.relpath(file, page.parent) for file in (before, path)]
        images = "".join(f'<img src="{html.escape(source)}"> ' for source in sources)
        parts.append(f"<p>{html.escape(name)}<br>{images}</p>\n")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("".join(parts), encoding="utf-8", errors="backslashreplace")
