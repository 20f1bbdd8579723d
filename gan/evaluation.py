"""Scores of a run during training, and all that `evaluate` shows: for noise, and for pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from config import Config, RunFacts
from gan import features, feed, metrics, pages, sample
from gan.console import say
from gan.data import Images
from gan.errors import Refused
from gan.pairs import PictureSet
from gan.translation import ways

if TYPE_CHECKING:
    from gan.losses import Nets

Pixels = NDArray[np.uint8]  # [N, C, H, W]
Score = Callable[[Pixels], dict[str, float]]  # named scores; "score" is the one to minimise
REALS = 2000  # the most held-out images that a score during training compares with
SHOWN_FACES = 64  # on the page of an evaluation
SHOWN_ROWS = 24  # test pictures on it
UNCHOSEN = "64 of them, not chosen"  # title of a picture
SSIM_BORDER = 5  # pixels that half its Gaussian window covers
UNCHANGED_NOTE = """"unchanged" is what the given pictures score as they are: a useful translation
beats it.""".replace("\n", " ")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` prints and writes."""

    numbers: dict[str, object]  # for the JSON
    table: Sequence[Sequence[str]]  # its first row names the columns
    notes: str
    pictures: dict[str, Image.Image]  # by title
    headline: str = ""


# --- of noise ------------------------------------------------------------------------------------


def noise_scorer(config: Config, data: Images, device: torch.device) -> Score | None:
    """Rates generated faces during training against the held-out images."""
    if len(data.held_out) < metrics.MIN_IMAGES:
        say("data: too few images are held out; the run has no scores")
        return None
    held_out = data.held_out[features.spaced(len(data.held_out), REALS)]
    real = features.Subset(data.array, held_out)
    reference = features.Reference(data.features_file)
    train = features.Subset(data.array, data.train)
    whiten = metrics.whitenings(train, reference, str(device))

    def score(fakes: Pixels) -> dict[str, float]:
        found = metrics.quality(fakes, real, whiten, reference=reference, device=str(device))
        return {name: row["value"] for name, row in found.items()}

    return score


def compare_images(fakes: Pixels, data: Images, network: str, device: torch.device) -> Evaluation:
    """All scores of `fakes` against the held-out images of `data`, by features of `network`."""
    train, real = (features.Subset(data.array, part) for part in (data.train, data.held_out))
    reference = features.Reference(data.features_file)
    found = metrics.evaluate(fakes, train, real, network, reference, str(device))
    pairs = found["memorisation"]["pairs"]
    rows: list[Pixels] = []
    for start in range(0, len(pairs), sample.COLUMNS):
        part = pairs[start : start + sample.COLUMNS]
        rows += [fakes[pair["fake"]] for pair in part]
        for pair in part:
            image = train[pair["train"] : pair["train"] + 1][0]
            rows.append(image[..., :: -1 if pair["mirrored"] else 1])
    pictures = {
        UNCHOSEN: _picture(list(fakes[:SHOWN_FACES])),
        "The closest to a training image: generated above, training image below": _picture(rows),
    }
    rows_of_text = pages.score_rows(found)
    more = (pages.REFERENCE_NOTE, pages.COUNT_NOTE, pages.FEATURES_NOTE)
    notes = pages.score_notes(rows_of_text, *more)
    return Evaluation(dict(found), rows_of_text, notes, pictures)


def compare_sets(fakes: Pixels, data: Images, network: str, device: torch.device) -> Evaluation:
    """All scores of `fakes` against all images of `data`, by features of `network`."""
    reference = features.Reference(data.features_file)
    found = metrics.compare(fakes, data.array, network, reference, str(device))
    pictures = {UNCHOSEN: _picture(list(fakes[:SHOWN_FACES]))}
    rows = pages.score_rows(found)
    more = (pages.NO_REFERENCE_NOTE, pages.COUNT_NOTE, pages.FEATURES_NOTE)
    return Evaluation(dict(found), rows, pages.score_notes(rows, *more), pictures)


def _picture(images: list[Pixels]) -> Image.Image:
    stacked = torch.stack([torch.from_numpy(image.copy()) for image in images])
    return sample.as_picture(sample.image_grid(stacked))


def evaluate_noise(
    nets: "Nets",
    config: Config,
    facts: RunFacts,
    data: Images,
    device: torch.device,
    count: int,
    network: str,
) -> Evaluation:
    """All scores of `count` faces by features of `network`.

    Raises Refused, before it generates any, for too few images.
    """
    metrics.check(count, len(data.train), len(data.held_out))
    features.extractor(network, config.img_size, str(device))
    classes = len(facts.class_names)
    source = sample.NoiseSource.of(config, classes, among=data.train_class_indices)
    G = nets.G.to(device)
    fakes = sample.draw_together(G, source(0, count), config.batch_size, device).numpy()
    return compare_images(fakes, data, network, device)


# --- of pictures ---------------------------------------------------------------------------------


def pair_distances(fakes: Pixels, wanted: Pixels) -> dict[str, float]:
    """Mean L1 (0..1), PSNR (dB) and SSIM (-1..1) of uint8 [N, C, H, W], by torchmetrics.

    H and W are 11 or more. SSIM is Wang et al. 2004 with their Gaussian window, where it lies
    wholly inside the image, as in scikit-image. By itself torchmetrics crops the border in some
    versions only.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    found: dict[str, list[Tensor]] = {"L1": [], "PSNR": [], "SSIM": []}
    for i in range(0, len(fakes), 64):
        x, y = (torch.tensor(side[i : i + 64]).float() / 255 for side in (fakes, wanted))
        ratio = peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))
        full = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)[1]
        inner = slice(SSIM_BORDER, -SSIM_BORDER)
        found["L1"].append((x - y).abs().mean((1, 2, 3)))
        found["PSNR"].append(ratio.clamp(max=100))  # identical pictures would have an infinite one
        found["SSIM"].append(full[..., inner, inner].mean((1, 2, 3)))
    return {name: float(torch.cat(parts).mean()) for name, parts in found.items()}


def picture_scorer(config: Config, data: PictureSet, device: torch.device) -> Score | None:
    """Rates translated test pictures during training; "score" is L1 if they are pairs."""
    wanted = data.test_wanted
    if min(len(data.test_given), len(wanted)) < metrics.MIN_IMAGES:
        say("data: too few pictures are held out to score with; the run has no scores")
        return None
    reference = features.Reference(data.features_file)
    whiten = metrics.whitenings(data.wanted, reference, str(device))

    def score(fakes: Pixels) -> dict[str, float]:
        found = metrics.quality(fakes, wanted, whiten, reference=reference, device=str(device))
        values = {name: row["value"] for name, row in found.items()}
        if not data.test_paired:
            return values
        del values[metrics.HEADLINE]
        pairs = pair_distances(fakes, wanted[features.spaced(len(wanted), len(fakes))])
        return {metrics.HEADLINE: pairs["L1"], **pairs, **values}

    return score


def evaluate_pictures(
    nets: "Nets",
    config: Config,
    facts: RunFacts,
    data: PictureSet,
    device: torch.device,
    count: int,
    network: str,
) -> Evaluation:
    """The scores of all test pictures, translated and, for comparison, unchanged."""
    given = data.test_given
    score = picture_scorer(config, data, device)
    if score is None:
        raise Refused(
            f"evaluate: fewer than {metrics.MIN_IMAGES} test pictures; add some in test/, or in "
            "testA/ and testB/"
        )
    G, size = nets.G.to(device), config.batch_size
    parts = (feed.to_float(given[i : i + 64]) for i in range(0, len(given), 64))
    drawn = torch.cat([sample.draw_uint8(G, (part,), size, device) for part in parts])
    rows = {"drawn": score(drawn.numpy())}
    if given.shape[1] == data.test_wanted.shape[1]:
        rows["unchanged"] = score(given[:])
    repeated = {metrics.HEADLINE} if data.test_paired else set()  # it is L1
    names = [name for name in rows["drawn"] if name not in repeated]
    table = [["score", "better", *rows]]
    for name in names:
        table.append([name, pages.better(name), *(f"{row[name]:.4f}" for row in rows.values())])
    more = (UNCHANGED_NOTE,) * ("unchanged" in rows)
    notes = pages.score_notes(table, *more, pages.FEATURES_NOTE)
    shown = feed.PictureFeed(config, facts, data, device).rows(nets.G, SHOWN_ROWS)
    third = "wanted" if ways(nets.G)[1] is None else "drawn back"
    pictures = {f"Given, drawn, {third}": sample.as_picture(shown)}
    headline = f"{len(given):,} test pictures, {config.direction}"
    numbers = {"n_fake": len(given), "scores": rows}
    return Evaluation(numbers, table, notes, pictures, headline)
