"""When things are due: updates, saves, scores, log lines, learning rates, the end of a run."""

import contextlib
import itertools
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

from config import Config

CRITIC_LEAD = 25  # D updates per G update in a critic's first steps (Arjovsky et al. 2017: 100)
SCORE_SHARE = 0.05  # of the budget between two scores
PAUSE_SHARE = 0.05  # of the training so far: the most that scores take, and the most that saves do
PAUSES_SHARE = 0.1  # of the whole training: the most that both may come to, with those at the end
FIRST_PAUSE_SECONDS = 10.0  # from a save that failed to the next try; doubles with each
LAST_PAUSE_SECONDS = 600.0
HEALTH_LINES = 10  # log lines from one check on held-out images to the next


class Budget:
    """How much of the run is done: the largest share used of its epochs, images and minutes."""

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        epoch_images = config.max_epoch * steps_per_epoch * config.batch_size
        limits = [limit for limit in (epoch_images, config.max_images) if limit]
        self.images = min(limits, default=0)
        self.seconds = 60 * config.max_minutes

    def fraction(self, images: int, seconds: float) -> float:
        """0 at the start, 1 when the budget is spent."""
        used = ((images, self.images), (seconds, self.seconds))
        return max(done / limit for done, limit in used if limit)


def learning_rate_scale(
    step: int, fraction: float, warm_up: int, end: float, fall: str = "cosine"
) -> float:
    """The factor of the learning rates after `fraction` (0 to 1) of the budget.

    It rises linearly over the first `warm_up` steps. From half of the budget on it falls to `end`,
    along a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5) or a line.
    """
    late = min(max(2 * fraction - 1, 0.0), 1.0)
    left = (1 + math.cos(math.pi * late)) / 2 if fall == "cosine" else 1 - late
    return min(1.0, (step + 1) / max(warm_up, 1)) * (end + (1 - end) * left)


class Updates(NamedTuple):
    """Who is updated in a step."""

    d: bool
    g: bool


def alternate(config: Config, step: int) -> Updates:
    """D on every `d_every`-th batch, G on every `g_every`-th."""
    return Updates(step % config.d_every == 0, step % config.g_every == 0)


def critic_first(config: Config, step: int) -> Updates:
    """Like `alternate`, but in the first `d_lead` steps G is updated only on every 25th batch."""
    g_every = CRITIC_LEAD if step < config.d_lead else config.g_every
    return Updates(step % config.d_every == 0, step % g_every == 0)


@dataclass
class Pauses:
    """One kind of pause of a session: the seconds taken, and those that the next one will take."""

    what: str  # is done meanwhile: "scoring" or "saving"
    next: float  # a guess before the first, then what the last one took
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.next = seconds
        self.seconds += seconds


class Schedule:
    """What is due after `step` steps.

    Updates, log lines and light saves by epochs are functions of the step, so that a resumed run
    does what an uninterrupted one does. Other saves, and scores without `eval_every`, are not.
    """

    def __init__(
        self,
        config: Config,
        updates: Callable[[Config, int], Updates],
        steps_per_epoch: int,
        now: float,
    ) -> None:
        self.config, self.updates, self.steps_per_epoch = config, updates, steps_per_epoch
        self.budget = Budget(config, steps_per_epoch)
        self.saved_at = now
        self.save_again = math.inf  # when a save that failed is tried again
        self.save_pause = FIRST_PAUSE_SECONDS
        self.scored_at = 0.0  # fraction of the budget
        self.trained = 0.0  # seconds of this session
        self.begun_at = 0.0  # the fraction at which this session began
        self.scores, self.saves = Pauses("scoring", 0.0), Pauses("saving", 0.0)
        self.light = True  # saves are so small that none is ever put off, however slow the disk

    def epoch(self, step: int) -> int:
        """The pass over the data that step number `step` was part of; both count from 1."""
        return -(-step // self.steps_per_epoch)

    def log_due(self, step: int) -> bool:
        """True after the first update of G in every `log_every` steps: only then is there news."""
        every = self.config.log_every
        if step < every or not self.updates(self.config, step - 1).g:
            return False
        first = step - step % every
        return not any(self.updates(self.config, s).g for s in range(first - 1, step - 1))

    def health_due(self, step: int) -> bool:
        """True for every tenth log line: D scores held-out images too."""
        period = self._lines_apart(step)
        return step // period % HEALTH_LINES == 0

    def _lines_apart(self, step: int) -> int:
        """About how many steps lie between log lines: `log_every`, or G's period if longer."""
        later = (s for s in itertools.count(step) if self.updates(self.config, s).g)
        return max(self.config.log_every, next(later) - (step - 1))

    def note_begun(self, now: float) -> None:
        """A save has begun in the background: no other is due for the same reason."""
        self.saved_at, self.save_again = now, math.inf

    def note_save(self, now: float, done: bool) -> None:
        """What became of a save; after one that failed, the next is due in twice the time."""
        if done:
            self.saved_at, self.save_again = now, math.inf
            self.save_pause = FIRST_PAUSE_SECONDS
        else:
            self.save_again = now + self.save_pause
            self.save_pause = min(2 * self.save_pause, LAST_PAUSE_SECONDS)

    def save_due(self, step: int, now: float) -> bool:
        """True every `save_every` epochs, and `save_minutes` after the last save, if time allows.

        After a save that failed: when it is to be tried again, and not before.

        Of the saves by epochs, only every tenth is due from the 100th on, and every hundredth from
        the 1,000th on: epochs of a few pictures take seconds and would fill the disk overnight.
        """
        if self.save_again < math.inf:
            return now >= self.save_again
        count, rest = divmod(step, self.config.save_every * self.steps_per_epoch)
        by_epochs = rest == 0 and count % 10 ** max(len(str(count)) - 2, 0) == 0
        due = by_epochs or now - self.saved_at >= 60 * self.config.save_minutes
        after = self.saves.seconds + self.saves.next
        return due and (self.light or after <= PAUSE_SHARE * self.trained)

    def score_due(self, images: int, fraction: float) -> bool:
        """True every `eval_every` images; if that is 0, every 5 % of the budget, if time allows."""
        if self.config.eval_every:  # a function of the images: a resumed run scores where it would
            return images % self.config.eval_every < self.config.batch_size
        spent = self.scores.seconds / max(self.trained, 1e-9)
        after = self.scores.seconds + self.saves.seconds + self.scores.next
        at_the_end = self.scores.next + self.saves.next
        room = PAUSES_SHARE * (self.trained + self.seconds_left(fraction)) - at_the_end
        return fraction - self.scored_at >= SCORE_SHARE and spent < PAUSE_SHARE and after <= room

    def seconds_left(self, fraction: float) -> float:
        """How much training is left after `fraction` of the budget, at the speed so far."""
        return self.trained * (1 - fraction) / max(fraction - self.begun_at, 1e-9)


class Stop:
    """A context in which Ctrl-C, SIGTERM and a closed terminal only set `signal`.

    Ctrl-C also prints a line, and a second one stops at once. SIGTERM does not stop the saving
    however often it comes: a parent that dies sends it once for each of its threads.
    `note_continued` is called when the process goes on after it was stopped (Ctrl-Z, `fg`).
    """

    def __init__(self, note_continued: Callable[[], object] = lambda: None) -> None:
        self.signal: int | None = None
        self.note_continued = note_continued
        self.before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT:
            self._restore(number)
            with contextlib.suppress(OSError):  # not `print`, which may be what was interrupted
                os.write(2, b"\nsaving; press Ctrl-C again to stop without\n")
        elif number != signal.SIGTERM:  # nobody reads what is written to a closed terminal
            for stream in filter(os.isatty, (1, 2)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

    def _restore(self, *numbers: int) -> None:
        for number in numbers or tuple(self.before):
            if number in self.before:
                signal.signal(number, self.before.pop(number))

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            closed = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
            for number in {signal.SIGINT, signal.SIGTERM, closed}:
                if signal.getsignal(number) != signal.SIG_IGN or number != closed:  # nohup
                    self.before[number] = signal.signal(number, self._note)
            if goes_on := getattr(signal, "SIGCONT", None):  # Windows has none
                handle = lambda *_: self.note_continued()  # noqa: E731
                self.before[goes_on] = signal.signal(goes_on, handle)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()
