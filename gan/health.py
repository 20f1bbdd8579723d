"""What is going wrong in a running game, in one plain line, and which flag answers it.

Loss curves do not tell: of the collapses in published logs about half came with no change in D's
loss. The signals here are measured once every `log_every` steps, when G was updated, on tensors
that are there anyway.
"""

import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 5  # readings that have to agree before anything is said
WARM_UP = 400  # steps in which any game is one-sided
Look = tuple[Tensor, ...]
SIDE = 12  # pixels at which variety is measured: hair, face and pose, no texture


@torch.no_grad()
def spread(images: Tensor) -> Tensor:
    """Mean distance of two of the images [N, C, H, W], at 12 x 12 pixels: a scalar >= 0."""
    small = F.adaptive_avg_pool2d(images.float().cpu(), SIDE).flatten(1)  # not any size on MPS
    count = len(small)
    return torch.cdist(small, small).sum() / max(count * (count - 1), 1)


def gradient_norm(net: nn.Module) -> Tensor:
    """Euclidean norm of all gradients that have reached `net`: a scalar >= 0."""
    norms = [p.grad.norm() for p in net.parameters() if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


@torch.no_grad()
def memory_gap(D: nn.Module, train: Look, held_out: Look, fake: Look) -> float:
    """How far new pictures look like fakes to D: 0 like training images, 1 like fakes.

    (D(train) - D(held out)) / (D(train) - D(fake)), mean logits, D in evaluation mode; each is
    what D is called with, the pictures and perhaps their classes.
    """
    mode = D.training
    D.eval()
    known, new, drawn = (D(*look).float() for look in (train, held_out, fake))
    D.train(mode)
    lead = float(known.mean() - drawn.mean())
    if lead <= 0.1 * float(known.std()):
        return 0.0  # it can hardly tell fakes from what it was trained on
    return float(known.mean() - new.mean()) / lead


@dataclass
class Reading:
    """One look at the game."""

    step: int
    finite: bool  # every loss since the last reading is a number
    pair_auc: float | None = None  # share of (real, fake) pairs that D orders rightly, 0.5 to 1
    diversity: float | None = None  # spread of the fakes over that of the reals
    gradient: float | None = None  # norm of what reaches G
    gap: float | None = None  # see `memory_gap`


@dataclass(frozen=True)
class Alarm:
    """What is wrong; `rescue` if going on from here is a waste of time."""

    kind: str
    line: str
    rescue: bool = False


class Monitor:
    """Turns readings into alarms: each when it begins.

    One that comes and goes is raised again when the run is twice as long, so that a whole night
    has a dozen lines of it; one that asks for a rescue is raised every time.
    """

    def __init__(self) -> None:
        self.recent: deque[Reading] = deque(maxlen=WINDOW)
        self.peak = 0.0  # the best diversity so far
        self.usual = 0.0  # running mean of the gradient's norm
        self.raised: list[str] = []
        self.said: dict[str, int] = {}  # the step at which each kind was raised last

    def state_dict(self) -> dict[str, Any]:
        return {
            "recent": [asdict(reading) for reading in self.recent],
            "peak": self.peak,
            "usual": self.usual,
            "raised": list(self.raised),
            "said": dict(self.said),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent.extend(Reading(**reading) for reading in state["recent"])
        self.peak, self.usual, self.raised = state["peak"], state["usual"], state["raised"]
        self.said = state.get("said", {})

    def forget(self) -> None:
        """Start the window anew: the nets are others than those the readings were of."""
        self.recent.clear()
        self.raised.clear()
        self.said.clear()

    def read(self, reading: Reading) -> list[Alarm]:
        """The alarms that begin with this reading."""
        if not reading.finite:
            return [
                Alarm(
                    "nan",
                    "the losses are no longer numbers: a step was too long; lower --lr1 and --lr2",
                    rescue=True,
                )
            ]
        self.recent.append(reading)
        self.peak = max(self.peak, reading.diversity or 0.0)
        found = self._alarms() if reading.step >= WARM_UP and len(self.recent) == WINDOW else []
        if reading.gradient is not None:
            weight = 0.02 if self.usual else 1.0
            self.usual += weight * (reading.gradient - self.usual)
        new = [
            alarm
            for alarm in found
            if alarm.kind not in self.raised
            and (alarm.rescue or reading.step >= 2 * self.said.get(alarm.kind, 0))
        ]
        self.raised = [x.kind for x in found if x.kind in self.raised or x in new]
        self.said |= {alarm.kind: reading.step for alarm in new}
        return new

    def _mean(self, name: str) -> float:
        """Mean of one signal over the window; NaN, which no threshold catches, if it has a hole."""
        values = [getattr(reading, name) for reading in self.recent]
        return math.nan if None in values else sum(values) / len(values)

    def _alarms(self) -> list[Alarm]:
        """All that is wrong over the whole window."""
        auc, variety = self._mean("pair_auc"), self._mean("diversity")
        gradient = self._mean("gradient")
        gap = next((r.gap for r in reversed(self.recent) if r.gap is not None), math.nan)
        found = []
        if auc > 0.99:
            found.append(
                Alarm(
                    "d wins",
                    f"D wins: it separates {100 * auc:.1f} % of pairs of a real and a fake, which "
                    "teaches G little; a larger --d-every or a lower --lr2 holds it back",
                )
            )
        if auc < 0.5:
            found.append(
                Alarm(
                    "g wins",
                    f"G fools D: only {100 * auc:.0f} % of reals score above a fake; a larger "
                    "--g-every or a higher --lr2 lets D catch up",
                )
            )
        if gap > 0.5:
            found.append(
                Alarm(
                    "memory",
                    f"D knows its training images by heart: held-out ones look {100 * gap:.0f} % "
                    "fake to it; more images, a smaller D (--ndf) or, if scores rise, less time",
                )
            )
        if gradient < 0.1 * self.usual:
            found.append(
                Alarm(
                    "no gradient",
                    f"hardly any gradient reaches G ({gradient:.2g}, usually {self.usual:.2g}): "
                    "D has saturated; lower --lr2 or raise --d-every",
                )
            )
        if variety < min(0.35, self.peak / 2) and self.peak >= 0.3:
            found.append(
                Alarm(
                    "collapse",
                    f"G has collapsed: its faces differ {100 * variety:.0f} % as much as real "
                    f"ones, it had {100 * self.peak:.0f} %; lower --lr1 and --lr2",
                    rescue=True,
                )
            )
        elif variety < 0.6:
            found.append(
                Alarm(
                    "narrow",
                    f"G draws much the same face: they differ {100 * variety:.0f} % as much as "
                    "real ones; give it time, or a lower --lr2",
                )
            )
        return found
