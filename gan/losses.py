"""Score losses and the games built from them: pure functions of scores.

Scores are D's raw outputs (logits), shape [N]; every loss is a mean over the batch, a scalar.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.augment import augment

Logs = dict[str, Tensor]


class Players(Protocol):
    """Two networks: the generator and the discriminator."""

    G: nn.Module
    D: nn.Module


@dataclass
class Batch:
    """What one step is played with; the fakes are drawn once and shared by both updates."""

    real: Tensor  # [N, C, H, W] in [-1, 1]
    noise: Tensor  # [N, nz]
    augment: float = 0.0  # how often D gets to see a picture changed, 0 to 1
    drawn: Tensor | None = None

    def fake(self, nets: Players) -> Tensor:
        """[N, C, H, W] in [-1, 1]; with a graph whenever G's weights ask for gradients."""
        if self.drawn is None:
            self.drawn = nets.G(self.noise)
        return self.drawn

    def view(self, images: Tensor) -> Tensor:
        """Pictures as D gets to see them."""
        return augment(images, self.augment) if self.augment else images


Loss = Callable[[Any, Batch, Any], tuple[Tensor, Logs]]


class Game(NamedTuple):
    """What D and G each want of the scores."""

    d: Callable[[Tensor, Tensor], Tensor]  # (real, fake) -> loss
    g: Callable[[Tensor], Tensor]  # (fake) -> loss


def pair_auc(real: Tensor, fake: Tensor) -> Tensor:
    """Share of the pairs (real, fake) in which the real scores higher, ties half: 0 to 1.

    0.5 is a D that cannot tell. Unlike the sign of D's scores it means the same for every game.
    """
    difference = real[:, None] - fake[None, :]
    return (difference.sign().mean() + 1) / 2


def logistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(real) - log(1 - s(fake)): binary cross-entropy with labels 1 and 0.

    Goodfellow et al. 2014, algorithm 1 (arXiv:1406.2661).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def logistic_g(fake: Tensor) -> Tensor:
    """-log s(fake), the generator's non-saturating loss (arXiv:1406.2661, section 3)."""
    return F.softplus(-fake).mean()


nonsaturating = Game(logistic_d, logistic_g)


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake): nothing more to gain beyond a margin of 1.

    Lim & Ye 2017 (arXiv:1705.02894), Miyato et al. 2018 (arXiv:1802.05957), eq. 16.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_g(fake: Tensor) -> Tensor:
    """-fake: G climbs D's score (arXiv:1802.05957, eq. 17)."""
    return -fake.mean()


hinge = Game(hinge_d, hinge_g)


def adversarial(game: Game) -> tuple[Loss, Loss]:
    """The two losses of a family that plays `game` with noise against images."""

    def d_loss(nets: Players, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        # Two passes: a D with batch norm has to see reals and fakes apart (Radford et al. 2016).
        real = nets.D(batch.view(batch.real))
        fake = nets.D(batch.view(batch.fake(nets).detach()))
        loss = game.d(real, fake)
        return loss, {
            "loss_d": loss.detach(),
            "D(x)": torch.sigmoid(real.detach()).mean(),
            "D(G(z))": torch.sigmoid(fake.detach()).mean(),
            "pair_auc": pair_auc(real.detach(), fake.detach()),
        }

    def g_loss(nets: Players, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        loss = game.g(nets.D(batch.view(batch.fake(nets))))
        return loss, {"loss_g": loss.detach()}

    return d_loss, g_loss
