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
    noise: Tensor  # [N, nz], or [N, nz + classes]
    condition: tuple[Tensor, ...] = ()  # one-hot classes of reals and fakes [N, classes], if any
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
    shown: Callable[[Tensor], Tensor] = torch.sigmoid  # scores as people are shown them


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


def least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    """((real - 1)^2 + fake^2) / 2 (Mao et al. 2017, arXiv:1611.04076, eq. 9)."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_g(fake: Tensor) -> Tensor:
    """(fake - 1)^2 / 2 (arXiv:1611.04076, eq. 9)."""
    return (fake - 1).square().mean() / 2


def itself(scores: Tensor) -> Tensor:
    return scores


least_squares = Game(least_squares_d, least_squares_g, itself)


def critic_d(real: Tensor, fake: Tensor) -> Tensor:
    """fake - real: minus the estimate of the Wasserstein distance (Arjovsky et al. 2017, eq. 3)."""
    return fake.mean() - real.mean()


critic = Game(critic_d, hinge_g, itself)


def gradient_penalty(
    D: Callable[..., Tensor], real: Tensor, fake: Tensor, condition: tuple[Tensor, ...] = ()
) -> Tensor:
    """(|dD/dx| - 1)^2 at random mixes x of a real and a fake, the norm of each image its own.

    Gulrajani et al. 2017 (arXiv:1704.00028), algorithm 1; the mean over the batch, a scalar >= 0.
    """
    mix = torch.rand(len(real), 1, 1, 1, device=real.device)
    x = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
    gradient = torch.autograd.grad(D(x, *condition).sum(), x, create_graph=True)[0]
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def clip_weights(nets: Players, config: Any) -> None:
    """Every weight of D back to [-c, c], in place (Arjovsky et al. 2017, algorithm 1)."""
    with torch.no_grad():
        for weight in nets.D.parameters():
            weight.clamp_(-config.clip, config.clip)


def adversarial(game: Game, penalty: Callable[..., Tensor] | None = None) -> tuple[Loss, Loss]:
    """The two losses of a family that plays `game` with noise against images."""

    def d_loss(nets: Players, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        # Two passes: a D with batch norm has to see reals and fakes apart (Radford et al. 2016).
        seen_real, seen_fake = batch.view(batch.real), batch.view(batch.fake(nets).detach())
        real, fake = (nets.D(images, *batch.condition) for images in (seen_real, seen_fake))
        loss = game.d(real, fake)
        if config.fake_label:  # cross-entropy with the label t is softplus(s) - t s
            loss = loss - config.fake_label * fake.mean()
        logs = {
            "loss_d": loss.detach(),
            "D(x)": game.shown(real.detach()).mean(),
            "D(G(z))": game.shown(fake.detach()).mean(),
            "pair_auc": pair_auc(real.detach(), fake.detach()),
        }
        if penalty:
            extra = penalty(nets.D, seen_real, seen_fake, batch.condition)
            logs["penalty"] = extra.detach()
            loss = loss + config.penalty * extra
        return loss, logs

    def g_loss(nets: Players, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        loss = game.g(nets.D(batch.view(batch.fake(nets)), *batch.condition))
        return loss, {"loss_g": loss.detach()}

    return d_loss, g_loss
