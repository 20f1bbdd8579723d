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
    noise: Tensor  # what G is fed: [N, nz], [N, nz + classes], or pictures
    condition: tuple[Tensor, ...] = ()  # one-hot classes of reals and fakes [N, classes], if any
    augment: float = 0.0  # how often D gets to see a picture changed, 0 to 1
    drawn: Tensor | None = None
    drawn_back: Tensor | None = None

    def fake(self, nets: Players) -> Tensor:
        """[N, C, H, W] in [-1, 1]; with a graph whenever G's weights ask for gradients."""
        if self.drawn is None:
            self.drawn = nets.G(self.noise).float()
        return self.drawn

    def returned(self, nets: Any) -> Tensor:
        """B on its way back, for nets that go both ways: [N, C, H, W]."""
        if self.drawn_back is None:
            self.drawn_back = nets.G.back(self.real).float()
        return self.drawn_back

    def view(self, images: Tensor) -> Tensor:
        """Pictures as D gets to see them."""
        return augment(images, self.augment) if self.augment else images

    def beside(self, images: Tensor) -> Tensor:
        """Pictures with those they were drawn from as more channels, both changed alike."""
        if not self.augment:
            return torch.cat([self.noise, images], 1)
        seed = int(torch.randint(2**31, ()))
        views = []
        for side in (self.noise, images):
            torch.manual_seed(seed)
            views.append(self.view(side))
        return torch.cat(views, 1)


Loss = Callable[[Any, Batch, Any], tuple[Tensor, Logs]]


def scored(D: Callable[..., Tensor], *seen: Tensor) -> Tensor:
    """D's scores in float32, for bfloat16's three digits are too few to take means of."""
    return D(*seen).float()


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

GAMES = {
    "logistic": nonsaturating,
    "hinge": hinge,
    "least-squares": least_squares,
    "critic": critic,
}


def gradient_penalty(
    D: Callable[..., Tensor], real: Tensor, fake: Tensor, condition: tuple[Tensor, ...] = ()
) -> Tensor:
    """(|dD/dx| - 1)^2 at random mixes x of a real and a fake, the norm of each image its own.

    Gulrajani et al. 2017 (arXiv:1704.00028), algorithm 1; the mean over the batch, a scalar >= 0.
    """
    mix = torch.rand(len(real), 1, 1, 1, device=real.device)
    x = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
    gradient = torch.autograd.grad(scored(D, x, *condition).sum(), x, create_graph=True)[0]
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def clip_weights(nets: Players, config: Any) -> None:
    """Every weight of D back to [-c, c], in place (Arjovsky et al. 2017, algorithm 1)."""
    with torch.no_grad():
        for weight in nets.D.parameters():
            weight.clamp_(-config.clip, config.clip)


def adversarial(own: Game, penalty: Callable[..., Tensor] | None = None) -> tuple[Loss, Loss]:
    """The two losses of a family that plays its `own` game with noise against images."""

    def d_loss(nets: Players, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        game = GAMES.get(config.loss, own)
        # Two passes: a D with batch norm has to see reals and fakes apart (Radford et al. 2016).
        seen_real, seen_fake = batch.view(batch.real), batch.view(batch.fake(nets).detach())
        real, fake = (scored(nets.D, x, *batch.condition) for x in (seen_real, seen_fake))
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
        game = GAMES.get(config.loss, own)
        loss = game.g(scored(nets.D, batch.view(batch.fake(nets)), *batch.condition))
        return loss, {"loss_g": loss.detach()}

    return d_loss, g_loss


def _scores(name: str, game: Game, real: Tensor, fake: Tensor) -> Logs:
    """What is logged of a discriminator's scores, of patches too: [N, ...]."""
    real, fake = real.detach(), fake.detach()
    return {
        f"D(x){name}": game.shown(real).mean(),
        f"D(G(z)){name}": game.shown(fake).mean(),
        "pair_auc": pair_auc(real.flatten(1).mean(1), fake.flatten(1).mean(1)),
    }


def paired(own: Game) -> tuple[Loss, Loss]:
    """The losses of pix2pix: D judges a picture beside the one it was drawn from.

    Isola et al. 2017 (arXiv:1611.07004), eq. 4: D's loss halved as in their section 3.3, G's the
    game's plus `config.l1` times |fake - real|.
    """

    def d_loss(nets: Players, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        game = GAMES.get(config.loss, own)
        real = scored(nets.D, batch.beside(batch.real))
        fake = scored(nets.D, batch.beside(batch.fake(nets).detach()))
        loss = game.d(real, fake) / 2
        return loss, {"loss_d": loss.detach(), **_scores("", game, real, fake)}

    def g_loss(nets: Players, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        game = GAMES.get(config.loss, own)
        fake = batch.fake(nets)
        wins, far = game.g(scored(nets.D, batch.beside(fake))), F.l1_loss(fake, batch.real)
        logs = {"loss_g": wins.detach(), "l1": far.detach()}
        return wins + config.l1 * far, logs

    return d_loss, g_loss


def cycle(own: Game) -> tuple[Loss, Loss]:
    """The losses of CycleGAN (Zhu et al. 2017, arXiv:1703.10593, eq. 3 and section 5.2).

    `nets.G` is the way there, `nets.G.back` the way back; `nets.D.there` and `nets.D.back` judge
    the fakes of each, shown from a pool of earlier ones.
    """

    def d_loss(nets: Any, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        game = GAMES.get(config.loss, own)
        there, back = batch.fake(nets), batch.returned(nets)
        logs: Logs = {}
        losses = []
        for name, D, real, fake in (
            (" B", nets.D.there, batch.real, nets.D.pool_there(there.detach())),
            (" A", nets.D.back, batch.noise, nets.D.pool_back(back.detach())),
        ):
            scores = scored(D, batch.view(real)), scored(D, batch.view(fake))
            losses.append(game.d(*scores) / 2)
            found = _scores(name, game, *scores)
            if "pair_auc" in logs:  # of the D that is further ahead
                found["pair_auc"] = torch.maximum(found["pair_auc"], logs["pair_auc"])
            logs |= found
        loss = losses[0] + losses[1]
        return loss, {"loss_d": loss.detach(), **logs}

    def g_loss(nets: Any, batch: Batch, config: Any) -> tuple[Tensor, Logs]:
        game = GAMES.get(config.loss, own)
        a, b, there, back = batch.noise, batch.real, batch.fake(nets), batch.returned(nets)
        fakes = ((nets.D.there, there), (nets.D.back, back))
        wins_there, wins_back = (game.g(scored(D, batch.view(fake))) for D, fake in fakes)
        wins = wins_there + wins_back
        round_trip = F.l1_loss(nets.G.back(there), a) + F.l1_loss(nets.G(back), b)
        loss = wins + config.cycle * round_trip
        logs = {"loss_g": wins.detach(), "cycle": round_trip.detach()}
        if config.identity and a.shape == b.shape:  # one cannot be taken for the other else
            same = F.l1_loss(nets.G(b), b) + F.l1_loss(nets.G.back(a), a)
            loss = loss + config.cycle * config.identity * same
            logs["identity"] = same.detach()
        return loss, logs

    return d_loss, g_loss
