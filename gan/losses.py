"""Losses as functions of scores, penalties of D, and the pairs (D's loss, G's loss) of families.

Scores are D's raw outputs (logits), shape [N]; every loss is a mean over the batch, a scalar.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config
from gan import distributed
from gan.augment import augment
from gan.errors import Refused
from gan.translation import CycleD, ThereAndBack

Logs = dict[str, Tensor]
Condition = tuple[Tensor, ...]  # one-hot classes [N, classes] in a conditional run, else empty
D = Callable[..., Tensor]  # D(images, *condition) -> scores


@dataclass
class Nets:
    """The two players. G(given, *condition) -> pictures; D(pictures, *condition) -> scores."""

    G: nn.Module
    D: nn.Module


@dataclass
class Batch:
    """The data of one step. Its fakes are generated once and shared by both updates."""

    real: Tensor  # [N, C, H, W] in [-1, 1]
    given: Tensor  # what G is fed: noise [N, nz], or pictures [N, C', H, W] in [-1, 1]
    condition: Condition = ()  # classes, the same for reals and fakes
    augment: float = 0.0  # probability of each augmentation of what D sees, 0 to 1
    step: int = 0
    fake: Tensor | None = None
    fake_given: Tensor | None = None  # G.back(real), in a cycle only

    def generate(self, nets: Nets) -> Tensor:
        """The fakes [N, C, H, W] in [-1, 1]; with a graph if G's weights require gradients."""
        if self.fake is None:
            self.fake = nets.G(self.given, *self.condition).float()
        return self.fake

    def generate_back(self, G: ThereAndBack) -> Tensor:
        """The wanted pictures, translated back to given ones: [N, C', H, W]."""
        if self.fake_given is None:
            self.fake_given = G.back(self.real).float()
        return self.fake_given

    def parts(self, count: int) -> "list[Batch]":
        """The batch itself, or `count` batches of as many images each, without fakes.

        Raises Refused if it cannot be divided so.
        """
        if count == 1:
            return [self]
        size, rest = divmod(len(self.real), count)
        if rest:
            raise Refused(
                f"--accumulate={count}: {len(self.real)} images cannot be divided into as many "
                "parts; give a divisor"
            )
        tensors = (self.real, self.given, *self.condition)
        split = zip(*(values.split(size) for values in tensors), strict=True)
        return [
            Batch(real, given, tuple(classes), self.augment, self.step)
            for real, given, *classes in split
        ]

    def augmented(self, images: Tensor) -> Tensor:
        """`images` as D sees them."""
        return augment(images, self.augment) if self.augment else images

    def with_given(self, images: Tensor) -> Tensor:
        """The given pictures joined with `images`, augmented identically: [N, C' + C, H, W]."""
        if not self.augment:
            return torch.cat([self.given, images], 1)
        seed = int(torch.randint(2**31, ()))
        views = []
        for side in (self.given, images):
            torch.manual_seed(seed)
            views.append(self.augmented(side))
        return torch.cat(views, 1)


Loss = Callable[[Nets, Batch, Config], tuple[Tensor, Logs]]


def score(D: D, *inputs: Tensor) -> Tensor:
    """D's scores in float32: the three digits of bfloat16 are too few for means."""
    return D(*inputs).float()


def score_both(D: D, real: Tensor, fake: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
    """D's scores of as many reals as fakes: in one pass, if D says that it keeps them apart.

    Two passes otherwise: a D with batch norm has to see them apart (Radford et al. 2016).
    """
    if not getattr(D, "takes_groups", False):
        return score(D, real, *condition), score(D, fake, *condition)
    twice = (torch.cat((classes, classes)) for classes in condition)
    both = D(torch.cat((real, fake)), *twice, groups=2).float()
    return both[: len(real)], both[len(real) :]


def pair_auc(real: Tensor, fake: Tensor) -> Tensor:
    """Share of (real, fake) pairs in which the real scores higher, 0 to 1; a tie counts half.

    At 0.5, D cannot tell them apart. Unlike the sign of D's scores, it means the same for every
    loss.
    """
    difference = real[:, None] - fake[None, :]
    return (difference.sign().mean() + 1) / 2


# --- losses of scores: (real, fake) -> scalar ----------------------------------------------------


def logistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(real) - log(1 - s(fake)): binary cross-entropy with labels 1 and 0.

    Goodfellow et al. 2014, algorithm 1 (arXiv:1406.2661).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def logistic_g(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(fake), the generator's non-saturating loss (arXiv:1406.2661, section 3)."""
    return F.softplus(-fake).mean()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake): no gain beyond a margin of 1.

    Lim & Ye 2017 (arXiv:1705.02894), Miyato et al. 2018 (arXiv:1802.05957), eq. 16.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_g(real: Tensor, fake: Tensor) -> Tensor:
    """-fake: G climbs D's score (arXiv:1802.05957, eq. 17)."""
    return -fake.mean()


def least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    """((real - 1)^2 + fake^2) / 2 (Mao et al. 2017, arXiv:1611.04076, eq. 9)."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_g(real: Tensor, fake: Tensor) -> Tensor:
    """(fake - 1)^2 / 2 (arXiv:1611.04076, eq. 9)."""
    return (fake - 1).square().mean() / 2


def squares_d(real: Tensor, fake: Tensor) -> Tensor:
    """(real - 1)^2 + fake^2 (Zhu et al. 2017, arXiv:1703.10593, section 4)."""
    return (real - 1).square().mean() + fake.square().mean()


def squares_g(real: Tensor, fake: Tensor) -> Tensor:
    """(fake - 1)^2 (arXiv:1703.10593, section 4)."""
    return (fake - 1).square().mean()


def critic_d(real: Tensor, fake: Tensor) -> Tensor:
    """fake - real: minus the estimate of the Wasserstein distance (Arjovsky et al. 2017, eq. 3)."""
    return fake.mean() - real.mean()


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(real - fake), pair by pair (RpGAN; Huang et al. 2024, arXiv:2501.05441, eq. 2)."""
    return F.softplus(fake - real).mean()


def relativistic_g(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(fake - real), pair by pair (arXiv:2501.05441, eq. 2)."""
    return F.softplus(real - fake).mean()


def identity(scores: Tensor) -> Tensor:
    return scores


class Game(NamedTuple):
    """D's and G's losses as functions of scores, both (real, fake) -> scalar."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor, Tensor], Tensor]
    relativistic: bool = False  # whether G's loss depends on the scores of reals
    shown: Callable[[Tensor], Tensor] = torch.sigmoid  # how scores are shown to people


GAMES = {
    "logistic": Game(logistic_d, logistic_g),
    "hinge": Game(hinge_d, hinge_g),
    "least-squares": Game(least_squares_d, least_squares_g, shown=identity),
    "critic": Game(critic_d, hinge_g, shown=identity),
    "relativistic": Game(relativistic_d, relativistic_g, relativistic=True, shown=identity),
}
# Beside --l1 or --cycle the scale of G's loss matters: CycleGAN's least squares have no halves.
PICTURE_GAMES = {**GAMES, "least-squares": Game(squares_d, squares_g, shown=identity)}


def picture_game(config: Config, own: str) -> Game:
    """The game of a family that translates: the row `config.loss` or, if that is empty, `own`."""
    return (GAMES if config.half_squares else PICTURE_GAMES)[config.loss or own]


# --- penalties of D: (D, real, fake, condition) -> scalar >= 0 -----------------------------------


def _gradient(D: D, x: Tensor, condition: Condition) -> Tensor:
    """dD/dx at leaf images x, with a graph: [N, C * H * W]."""
    gradient = torch.autograd.grad(score(D, x, *condition).sum(), x, create_graph=True)[0]
    return gradient.flatten(1)


def gradient_penalty(D: D, real: Tensor, fake: Tensor, condition: Condition = ()) -> Tensor:
    """(|dD/dx| - 1)^2 at random mixes x of a real and a fake; one norm per image.

    Gulrajani et al. 2017 (arXiv:1704.00028), algorithm 1.
    """
    mix = distributed.rand(len(real), 1, 1, 1, device=real.device)
    x = (mix * real + (1 - mix) * fake).detach().requires_grad_(True)
    return (_gradient(D, x, condition).norm(dim=1) - 1).square().mean()


def r1(D: D, real: Tensor, fake: Tensor, condition: Condition = ()) -> Tensor:
    """|dD/dx|^2 / 2 at the reals (Mescheder et al. 2018, arXiv:1801.04406, eq. 9)."""
    x = real.detach().requires_grad_(True)
    return _gradient(D, x, condition).square().sum(1).mean() / 2


def r2(D: D, real: Tensor, fake: Tensor, condition: Condition = ()) -> Tensor:
    """|dD/dx|^2 / 2 at the fakes (arXiv:1801.04406, eq. 10)."""
    return r1(D, fake, real, condition)


PENALTIES: dict[str, Callable[[D, Tensor, Tensor, Condition], Tensor]] = {
    "gradient": gradient_penalty,
    "r1": r1,
    "r2": r2,
}


def clip_weights(nets: Nets, config: Config) -> None:
    """Clamp every weight of D to [-c, c], in place (Arjovsky et al. 2017, algorithm 1)."""
    with torch.no_grad():
        for weight in nets.D.parameters():
            weight.clamp_(-config.clip, config.clip)


def fake_label(real: Tensor, fake: Tensor, config: Config) -> Tensor:
    """What the label t of fakes adds to D's logistic loss: cross-entropy is softplus(s) - t s."""
    return -config.fake_label * fake.mean()


# --- pairs of losses -----------------------------------------------------------------------------


def adversarial(
    own: str,
    penalties: tuple[str, ...] = (),
    extra: Callable[[Tensor, Tensor, Config], Tensor] | None = None,
) -> tuple[Loss, Loss]:
    """The two losses of a family that generates images from noise.

    The game is the row `config.loss` of GAMES or, if that is empty, the row `own`. `penalties` name
    rows of PENALTIES. They are added in every `config.penalty_every`-th update of D, with a weight
    of `config.penalty` times `config.penalty_every` (lazy regularisation: Karras et al. 2020,
    arXiv:1912.04958, appendix B). `extra(real, fake, config)` is added to D's loss.
    """

    def d_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        game = GAMES[config.loss or own]
        reals = batch.augmented(batch.real)
        fakes = batch.augmented(batch.generate(nets).detach())
        real, fake = score_both(nets.D, reals, fakes, batch.condition)
        loss = game.d(real, fake)
        if extra:
            loss = loss + extra(real, fake, config)
        logs = {
            "loss_d": loss.detach(),
            "D(x)": game.shown(real.detach()).mean(),
            "D(G(z))": game.shown(fake.detach()).mean(),
            "pair_auc": pair_auc(real.detach(), fake.detach()),
        }
        due = batch.step // config.d_every % config.penalty_every == 0
        if penalties and due:
            terms = [PENALTIES[name](nets.D, reals, fakes, batch.condition) for name in penalties]
            penalty = torch.stack(terms).sum()
            logs["penalty"] = penalty.detach()
            loss = loss + config.penalty * config.penalty_every * penalty
        return loss, logs

    def g_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        game, fake = GAMES[config.loss or own], batch.generate(nets)
        loss = _play_g(game, nets.D, batch.augmented, batch.real, fake, batch.condition)
        return loss, {"loss_g": loss.detach()}

    return d_loss, g_loss


def _play_g(
    game: Game,
    D: D,
    view: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    condition: Condition = (),
) -> Tensor:
    """G's loss. D scores `view(fake)`; it scores `view(real)` only in a relativistic game."""
    scores = real.new_empty(0)
    if game.relativistic:
        with torch.no_grad():
            scores = score(D, view(real), *condition)
    return game.g(scores, score(D, view(fake), *condition))


def _log_scores(suffix: str, game: Game, real: Tensor, fake: Tensor) -> Logs:
    """What is logged about a D's scores [N, ...]: one per image, or one per patch."""
    real, fake = real.detach(), fake.detach()
    return {
        f"D(x){suffix}": game.shown(real).mean(),
        f"D(G(z)){suffix}": game.shown(fake).mean(),
        "pair_auc": pair_auc(real.flatten(1).mean(1), fake.flatten(1).mean(1)),
    }


def paired(own: str) -> tuple[Loss, Loss]:
    """The losses of pix2pix: D judges a picture together with the one it was translated from.

    Isola et al. 2017 (arXiv:1611.07004), eq. 4. D's loss is halved (section 3.3); G's loss is the
    game's plus `config.l1` times |fake - real|.
    """

    def d_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        game = picture_game(config, own)
        real = score(nets.D, batch.with_given(batch.real))
        fake = score(nets.D, batch.with_given(batch.generate(nets).detach()))
        loss = game.d(real, fake) / 2
        return loss, {"loss_d": loss.detach(), **_log_scores("", game, real, fake)}

    def g_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        game, fake = picture_game(config, own), batch.generate(nets)
        adversary = _play_g(game, nets.D, batch.with_given, batch.real, fake)
        distance = F.l1_loss(fake, batch.real)
        logs = {"loss_g": adversary.detach(), "l1": distance.detach()}
        return adversary + config.l1 * distance, logs

    return d_loss, g_loss


def cycle(own: str) -> tuple[Loss, Loss]:
    """The losses of CycleGAN (Zhu et al. 2017, arXiv:1703.10593, eq. 3 and section 5.2).

    G translates given to wanted pictures, `G.back` wanted to given ones. `D.there` judges wanted
    pictures, `D.back` given ones; both see fakes from a pool of earlier ones.
    """

    def d_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        game = picture_game(config, own)
        G, D = cast(ThereAndBack, nets.G), cast(CycleD, nets.D)
        there, back = batch.generate(nets), batch.generate_back(G)
        logs: Logs = {}
        losses = []
        for suffix, judge, real, fake in (
            (" B", D.there, batch.real, D.pool_there(there.detach())),
            (" A", D.back, batch.given, D.pool_back(back.detach())),
        ):
            scores = score(judge, batch.augmented(real)), score(judge, batch.augmented(fake))
            losses.append(game.d(*scores) / 2)
            found = _log_scores(suffix, game, *scores)
            if "pair_auc" in logs:  # of the D that is further ahead
                found["pair_auc"] = torch.maximum(found["pair_auc"], logs["pair_auc"])
            logs |= found
        loss = losses[0] + losses[1]
        return loss, {"loss_d": loss.detach(), **logs}

    def g_loss(nets: Nets, batch: Batch, config: Config) -> tuple[Tensor, Logs]:
        game = picture_game(config, own)
        G, D = cast(ThereAndBack, nets.G), cast(CycleD, nets.D)
        given, wanted = batch.given, batch.real
        there, back = batch.generate(nets), batch.generate_back(G)
        adversary = _play_g(game, D.there, batch.augmented, wanted, there)
        adversary = adversary + _play_g(game, D.back, batch.augmented, given, back)
        round_trip = F.l1_loss(G.back(there), given) + F.l1_loss(G(back), wanted)
        loss = adversary + config.cycle * round_trip
        logs = {"loss_g": adversary.detach(), "cycle": round_trip.detach()}
        # each G is fed what it should generate, so both sides need the same channels
        if config.identity and given.shape == wanted.shape:
            same = F.l1_loss(G(wanted), wanted) + F.l1_loss(G.back(given), given)
            loss = loss + config.cycle * config.identity * same
            logs["identity"] = same.detach()
        return loss, logs

    return d_loss, g_loss
