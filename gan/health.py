"""Signals of a training that goes wrong, and the alarms that name the flag to change.

Loss curves do not show it: about half of the collapses in published logs came with no change in
D's loss. The signals here are measured every `log_every` steps, in a step that updated G, on
tensors that the step has computed anyway.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DInputs = tuple[Tensor, ...]  # what D is called with: images [N, C, H, W], then the condition

# ---- thresholds --------------------------------------------------------------------------------
# Numbers below that have no other source come from two short runs of `modern` at 32 px with
# ngf = ndf = 16, 2,500 steps, read every 20: "1,800 avatars", a healthy run, and "92
# avatars", without augmentation, which D memorises.

# Readings that an alarm averages. Rule of thumb: single readings of diversity (1,800 avatars, from
# step 400 on) are 0.77 to 1.10, their means of 5 are 0.87 to 1.00.
WINDOW = 5
# Steps without an alarm other than NaN. Until step 100 both runs have pair AUC up to 1.00 and
# diversity from 0.24 up, from step 200 on 0.60 to 0.90 and 0.64 to 1.09: healthy. Step 400 was
# also early enough to name the bad ratios of updates (docs/experiments.md).
WARM_UP = 400
# Pair AUC above which D wins. Rule of thumb: 1,800 avatars stay below 0.81; 92 avatars pass 0.99
# after step 1,600; five updates of D to one of G have 0.999 (docs/experiments.md).
AUC_OF_A_WINNING_D = 0.99
# Pair AUC below which D is wrong more often than right: 0.5 is chance. One update of D to five of
# G has 0.16 or less, fakes labelled as real have 0.01 to 0.23 (docs/experiments.md).
AUC_OF_CHANCE = 0.5
# Memory gap above which held-out images look more like fakes than like training images. Half-way
# is a rule of thumb: 1,800 avatars have -0.01 to 0.40 and once 0.56; 92 avatars have 0.69 to 1.20
# from step 400 on.
GAP_OF_MEMORISATION = 0.5
# Share of its running mean below which G's gradient has vanished. Rule of thumb: in either run all
# readings from step 200 on are within a factor of three; a saturated D leaves 0 (docs/scores.md).
VANISHED_GRADIENT_SHARE = 0.1
# Weight of a new reading in that running mean: it spans about 50 readings, which is 1,000 steps at
# the default --log-every. Rule of thumb: the mean must outlast WINDOW, or it would fall with the
# gradient.
GRADIENT_MEAN_WEIGHT = 0.02
# Diversity below which a G that was more diverse has collapsed. Rule of thumb: single readings of
# either run are 0.64 and more from step 200 on; G after a collapse has 0 (docs/scores.md) to 0.03.
COLLAPSED_DIVERSITY = 0.35
# A collapse also loses half of the peak, or a slow G would be one. The classic nets on avatars fell
# from 0.48 to 0.03; an earlier rule that asked for a peak of 0.6 missed this collapse.
COLLAPSED_PEAK_SHARE = 1 / 2
# Peak below which a G has no diversity to lose. Rule of thumb: a G in its first 60 steps has 0.24
# to 0.31 (both runs), the classic nets had 0.48 before they collapsed.
LEAST_PEAK = 0.3
# Diversity below which G generates much the same face. The good ratios of updates reach 0.86 and
# more; the bad ones had 0.04 to 0.27 when they were named (docs/experiments.md).
NARROW_DIVERSITY = 0.6
# D's lead over fakes, in standard deviations of D(train), up to which there is no memory gap.
# Rule of thumb: the gap divides by the lead, so it is noise where the lead is near 0.
LEAST_LEAD = 0.1

THUMBNAIL_SIDE = 12  # pixels at which diversity is measured: shows hair, face and pose, no texture


@torch.no_grad()
def mean_pairwise_distance(images: Tensor) -> Tensor:
    """Mean Euclidean distance between two of the images, both at 12 x 12 pixels.

    `images` [N, C, H, W], any range; the result is a scalar >= 0 on the CPU, 0 for one image.
    """
    # On the CPU, since MPS cannot pool to every size.
    small = F.adaptive_avg_pool2d(images.float().cpu(), THUMBNAIL_SIDE).flatten(1)
    count = len(small)
    return torch.cdist(small, small).sum() / max(count * (count - 1), 1)


def gradient_norm(net: nn.Module) -> Tensor:
    """Euclidean norm of all gradients stored in `net`: a scalar >= 0, 0 where there are none."""
    norms = [p.grad.norm() for p in net.parameters() if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


@torch.no_grad()
def memory_gap(D: nn.Module, train: DInputs, held_out: DInputs, fake: DInputs) -> float:
    """(mean D(train) - mean D(held out)) / (mean D(train) - mean D(fake)), D in evaluation mode.

    0: held-out images look to D like training images. 1: they look like fakes, so D has memorised
    its training images. Also 0 where D can hardly tell training images from fakes.
    """
    mode = D.training
    D.eval()
    known, new, generated = (D(*inputs).float() for inputs in (train, held_out, fake))
    D.train(mode)
    lead = float(known.mean() - generated.mean())
    if lead <= LEAST_LEAD * float(known.std()):
        return 0.0
    return float(known.mean() - new.mean()) / lead


@dataclass
class Reading:
    """The signals of one step; None where a signal was not measured."""

    step: int
    finite: bool  # whether all losses since the last reading are finite
    pair_auc: float | None = None  # share of (real, fake) pairs that D orders correctly, 0..1
    diversity: float | None = None  # mean pairwise distance of the fakes over that of the reals
    gradient: float | None = None  # norm of G's gradient
    gap: float | None = None  # see `memory_gap`


@dataclass(frozen=True)
class Alarm:
    """What goes wrong; `rescue` if the training cannot recover by itself."""

    kind: str
    line: str
    rescue: bool = False


@dataclass(frozen=True)
class Signals:
    """What the rules decide by: means over the window, NaN where a reading lacks the signal.

    Comparisons with NaN are false, so a missing signal raises no alarm.
    """

    pair_auc: float
    diversity: float
    gradient: float
    gap: float  # the newest in the window
    usual_gradient: float  # running mean before the window's last reading
    peak_diversity: float  # the highest single reading of the run


@dataclass(frozen=True)
class Rule:
    """One alarm: when it applies and what it says."""

    kind: str
    applies: Callable[[Signals], bool]
    line: Callable[[Signals], str]
    rescue: bool = False


def _collapsed(signals: Signals) -> bool:
    limit = min(COLLAPSED_DIVERSITY, COLLAPSED_PEAK_SHARE * signals.peak_diversity)
    return signals.diversity < limit and signals.peak_diversity >= LEAST_PEAK


RULES = (
    Rule(
        "d wins",
        lambda s: s.pair_auc > AUC_OF_A_WINNING_D,
        lambda s: (
            f"D wins: it separates {100 * s.pair_auc:.1f} % of pairs of a real and a fake, which "
            "teaches G little; a larger --d-every or a lower --lr2 holds it back"
        ),
    ),
    Rule(
        "g wins",
        lambda s: s.pair_auc < AUC_OF_CHANCE,
        lambda s: (
            f"G fools D: only {100 * s.pair_auc:.0f} % of reals score above a fake; a larger "
            "--g-every or a higher --lr2 lets D catch up"
        ),
    ),
    Rule(
        "memory",
        lambda s: s.gap > GAP_OF_MEMORISATION,
        lambda s: (
            f"D knows its training images by heart: held-out ones look {100 * s.gap:.0f} % "
            "fake to it; what helps, best first: more images, --init=RUN of a larger set, and, if "
            "scores rise, less time"
        ),
    ),
    Rule(
        "no gradient",
        lambda s: s.gradient < VANISHED_GRADIENT_SHARE * s.usual_gradient,
        lambda s: (
            f"hardly any gradient reaches G ({s.gradient:.2g}, usually {s.usual_gradient:.2g}): "
            "D has saturated; lower --lr2 or raise --d-every"
        ),
    ),
    Rule(
        "collapse",
        _collapsed,
        lambda s: (
            f"G has collapsed: its faces differ {100 * s.diversity:.0f} % as much as real "
            f"ones, it had {100 * s.peak_diversity:.0f} %; lower --lr1 and --lr2"
        ),
        rescue=True,
    ),
    Rule(
        "narrow",
        lambda s: s.diversity < NARROW_DIVERSITY and not _collapsed(s),
        lambda s: (
            f"G draws much the same face: they differ {100 * s.diversity:.0f} % as much as "
            "real ones; give it time, or a lower --lr2"
        ),
    ),
)
NAN = Alarm(  # no rule: one reading is enough, at any step
    "nan",
    "the losses are no longer numbers: a step was too long; lower --lr1 and --lr2",
    rescue=True,
)


class MonitorState(TypedDict):
    """What `Monitor` keeps in a saved state. The keys are on disk, so they keep their names."""

    recent: list[dict[str, Any]]  # fields of `Reading`
    peak: float
    usual: float
    raised: list[str]
    said: dict[str, int]  # missing in older states


class Monitor:
    """Turns readings into alarms.

    An alarm is raised in the reading in which it begins. One that ends and begins again is raised
    again only when the run is twice as long as at the last time, so a run of a night prints a dozen
    lines of it. An alarm that asks for a rescue is raised each time it begins.
    """

    def __init__(self) -> None:
        self.recent: deque[Reading] = deque(maxlen=WINDOW)
        self.peak_diversity = 0.0
        self.usual_gradient = 0.0  # running mean; 0 before the first reading
        self.active: list[str] = []  # kinds that were raised and have not ended
        self.raised_at: dict[str, int] = {}  # kind -> step at which it was raised last

    def state_dict(self) -> MonitorState:
        return {
            "recent": [asdict(reading) for reading in self.recent],
            "peak": self.peak_diversity,
            "usual": self.usual_gradient,
            "raised": list(self.active),
            "said": dict(self.raised_at),
        }

    def load_state_dict(self, state: MonitorState) -> None:
        self.recent.extend(Reading(**reading) for reading in state["recent"])
        self.peak_diversity, self.usual_gradient = state["peak"], state["usual"]
        self.active = state["raised"]
        self.raised_at = state.get("said", {})

    def forget(self) -> None:
        """Empty the window and the list of alarms: a rescue has replaced the nets."""
        self.recent.clear()
        self.active.clear()
        self.raised_at.clear()

    def read(self, reading: Reading) -> list[Alarm]:
        """The alarms that begin with this reading."""
        if not reading.finite:
            return [NAN]
        self.recent.append(reading)
        self.peak_diversity = max(self.peak_diversity, reading.diversity or 0.0)
        found = self._alarms() if reading.step >= WARM_UP and len(self.recent) == WINDOW else []
        if reading.gradient is not None:
            weight = GRADIENT_MEAN_WEIGHT if self.usual_gradient else 1.0
            self.usual_gradient += weight * (reading.gradient - self.usual_gradient)
        new = [
            alarm
            for alarm in found
            if alarm.kind not in self.active
            and (alarm.rescue or reading.step >= 2 * self.raised_at.get(alarm.kind, 0))
        ]
        self.active = [x.kind for x in found if x.kind in self.active or x in new]
        self.raised_at |= {alarm.kind: reading.step for alarm in new}
        return new

    def _mean(self, signal: str) -> float:
        """Mean of one signal over the window; NaN if a reading lacks it."""
        values = [getattr(reading, signal) for reading in self.recent]
        return math.nan if None in values else sum(values) / len(values)

    def _alarms(self) -> list[Alarm]:
        """The alarms of all rules that apply to the window."""
        signals = Signals(
            pair_auc=self._mean("pair_auc"),
            diversity=self._mean("diversity"),
            gradient=self._mean("gradient"),
            gap=next((r.gap for r in reversed(self.recent) if r.gap is not None), math.nan),
            usual_gradient=self.usual_gradient,
            peak_diversity=self.peak_diversity,
        )
        return [
            Alarm(rule.kind, rule.line(signals), rule.rescue)
            for rule in RULES
            if rule.applies(signals)
        ]
