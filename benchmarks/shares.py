"""Of kinds that have more than 10 % of the candidates: how far their shares move, at most and on
average, as a part of the share among all candidates; all choices together / one choice.
"""

import json
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan import avatars, features
from gan.kinds import k_means, nearest

LARGE = 0.1  # share of the candidates from which a kind counts
CLUSTERS = 8  # of lite0 features: kinds that the rankers do not know
REACH = 60  # Euclidean distance of RGB within which a pixel has a colour of a palette
# rows and columns of 96 px in which the colour is that of most avatars
WHERE = {"skin": (60, 76, 26, 60), "hair": (18, 34, 26, 60), "background": (0, 8, 0, 96)}
COLUMNS = ("clusters", *WHERE)
Kinds = dict[str, NDArray[np.int64]]  # name of a division -> the kind of each image


def palette(name: str) -> NDArray[np.float32]:
    """RGB of the colours that the avatars' skin, hair or background has: [k, 3]."""
    text = resources.files("dicebear_styles").joinpath("adventurer.json").read_text("utf-8")
    named = json.loads(text)["colors"]
    words = avatars.BACKGROUNDS if name == "background" else named[name]["values"]
    return np.array([list(bytes.fromhex(word.lstrip("#"))) for word in words], np.float32)


def colours(images: Tensor, name: str) -> NDArray[np.int64]:
    """The colour of the palette that most pixels of the region have: [n].

    Of drawn avatars it tells every skin and background, and 88 % or more of each hair colour.
    """
    top, bottom, left, right = (v * images.shape[-1] // 96 for v in WHERE[name])
    region = images[:, :, top:bottom, left:right].permute(0, 2, 3, 1).reshape(len(images), -1, 3)
    known = torch.from_numpy(palette(name))
    votes = torch.zeros(len(images), len(known))
    for part in range(0, len(images), 256):
        distance = torch.cdist(region[part : part + 256].float(), known[None])
        chosen = torch.nn.functional.one_hot(distance.argmin(2), len(known))
        votes[part : part + 256] = (
            (chosen * (distance.amin(2, keepdim=True) < REACH)).sum(1).float()
        )
    return votes.argmax(1).numpy()


def kinds_of(images: Tensor, avatars: bool) -> Kinds:
    """Divisions of uint8 [n, C, H, W]: clusters, and of avatars by colours."""
    found = torch.from_numpy(features.extract(images.numpy(), "lite0")).double()
    own: Kinds = {"clusters": nearest(found, k_means(found, CLUSTERS)).numpy()}
    return own | ({name: colours(images, name) for name in WHERE} if avatars else {})


def cells(kinds: Kinds, chosen: list[Tensor], candidates: int) -> list[str]:
    """A cell for each of COLUMNS: largest and mean movement of all choices; mean of one choice.

    `chosen` are indices of one choice among each `candidates` images.
    """
    texts = []
    for name in COLUMNS:
        if name not in kinds:
            texts.append("–")
            continue
        own = kinds[name]
        among_all = np.bincount(own) / len(own)
        together = moved(own, torch.cat(chosen).numpy(), among_all)
        single = [
            moved(own, part.numpy(), share_of(own[i * candidates : (i + 1) * candidates], own))
            for i, part in enumerate(chosen)
        ]
        each = np.mean([np.mean(values) for values in single])
        texts.append(f"{together.max():.2f}, {together.mean():.2f} / {each:.2f}")
    return texts


def share_of(part: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each kind among `part`."""
    return np.bincount(part, minlength=own.max() + 1) / len(part)


def moved(
    own: NDArray[np.int64], chosen: NDArray[np.int64], before: NDArray[np.float64]
) -> NDArray[np.float64]:
    """|share among the chosen / share before - 1| of each kind with more than LARGE before."""
    large = before > LARGE
    return np.abs(share_of(own[chosen], own)[large] / before[large] - 1)
