"""What a training saves: weights and state, all or none of them, then the preview; the best state.

A light state is written at once. One that takes seconds is copied when its step ends, and a thread
writes the copy while the training goes on: one state at a time, so a save that comes due meanwhile
waits. The last state of a session is always written at once. What was written is told, shown and
cleaned up after by the training itself, in `settle`.
"""

import contextlib
import functools
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from gan import checkpoint, job, machine, sample, validate
from gan.errors import Refused
from gan.feed import Feed
from gan.progress import size
from gan.record import reason_of
from gan.report import Report
from gan.schedule import Schedule
from gan.state import SavedState, State
from gan.writer import Writer

KEPT_STATES = 2  # the newest, and the one before it in case the newest is damaged
LIGHT_BYTES = 100e6  # of a save: a smaller one is never put off, and written at once
DISK_SPEED = 200e6  # bytes/s, a guess of how fast a state is written
COPY_SHARE = 1 / 8  # of the memory: a larger save is not copied
ROOM_SECONDS = 120.0  # that a run whose last state cannot be written waits for room
ROOM_PAUSE_SECONDS = 5.0  # between two tries of that


@dataclass(frozen=True)
class Folders:
    """Where a run writes."""

    checkpoints: Path
    imgs: Path
    runs: Path


@dataclass(frozen=True)
class Save:
    """One save: of which step, and where its state is."""

    step: int
    epoch: int
    images: int
    seconds: float  # of training
    path: Path


class Saves:
    """The saves of one session; the first process alone writes."""

    def __init__(
        self,
        state: State,
        feed: Feed,
        folders: Folders,
        schedule: Schedule,
        report: Report,
        digest: str,
    ) -> None:
        self.state, self.feed, self.folders, self.digest = state, feed, folders, digest
        self.schedule, self.report = schedule, report
        self.last: Save | None = None  # that is on disk
        self.best_step = -1  # of the best state, if it is of this session
        self.warned = False  # that the disk is nearly full
        self.writer = Writer()
        self.preview: Tensor | None = None  # of the save that is being written
        self.begun, self.behind = 0.0, 0.0  # of the last save in the background: when, how long
        size = state.size_of_save()
        schedule.saves.next = size / DISK_SPEED
        schedule.light = size < LIGHT_BYTES
        self.may_copy = not schedule.light and size <= COPY_SHARE * machine.memory_bytes()

    def payload(self, G: nn.Module) -> SavedState:
        """The whole state, with the average as `G` has it: with new batch norm statistics."""
        saved = {**self.state.state_dict(), "data": self.digest}
        return {**saved, "ema": G.state_dict()} if self.state.ema else saved

    def settle(self, *, wait: bool) -> None:
        """Tell what became of a write that has ended; with `wait` it is waited for."""
        self.writer.settle(wait=wait)

    def save(self, G: nn.Module, *, at_once: bool = True) -> None:
        """Write weights and state, all or none of them; then the preview, if that can be written.

        Unless `at_once`, a heavy state may be written in the background; `settle` tells what became
        of it. Raises OSError if the state cannot be written; the states before it stay.
        """
        self.settle(wait=True)
        state, folder = self.state, self.folders.checkpoints
        epoch, path = self.schedule.epoch(state.step), checkpoint.state_of(folder, state.step)
        save = Save(state.step, epoch, state.images, state.seconds, path)
        if not job.is_first():
            self.last = save
            return
        payload = self.payload(G)
        files = {
            folder / f"netg_{epoch}.pth": payload["ema"] or payload["nets"]["G"],
            folder / f"netd_{epoch}.pth": payload["nets"]["D"],
            path: payload,  # the last to get its name: all files of its step exist
        }
        best = folder / checkpoint.BEST
        twins = {path: best} if self.best_step == state.step else {}
        if not at_once and (copied := self._copied(files)):
            self.begun = time.monotonic()
            self.schedule.note_begun(self.begun)
            self.preview = None
            write = functools.partial(checkpoint.save_all, copied, twins)
            self.writer.start(write, functools.partial(self._note_written, save))
            self.preview = self.feed.preview(G)
            return
        try:
            checkpoint.save_all(files, twins)
        except OSError as error:
            self.schedule.note_save(time.monotonic(), done=False)
            raise OSError(error.errno, f"{reason_of(error)} (it needs {self._need()})") from error
        self._note_saved(save)
        self._show(save, self.feed.preview(G))

    def _copied(self, files: dict[Path, SavedState]) -> dict[Path, SavedState]:
        """Copies of what is to be written; none if memory is short."""
        if not self.may_copy:
            return {}
        try:
            return checkpoint.copied(files)
        except (MemoryError, RuntimeError) as error:
            if not machine.is_out_of_memory(error):
                raise
        self.may_copy = False
        return {}

    def _need(self) -> str:
        return f"{self.state.size_of_save() / 1e6:.1f} MB"

    def _note_written(self, save: Save, error: OSError | None) -> None:
        """What was written in the background is there, or is not."""
        self.behind = time.monotonic() - self.begun
        if error is None:
            self._note_saved(save)
            if self.preview is not None:
                self._show(save, self.preview)
        else:
            self.schedule.note_save(time.monotonic(), done=False)
            self._say_next_try(f"{self.unsaved(save.step, error)} (it needs {self._need()})")

    def _note_saved(self, save: Save) -> None:
        self.last = save
        self.schedule.note_save(time.monotonic(), done=True)
        self.report.spare.attempt("states", lambda: self._clear_away(save))

    def _clear_away(self, save: Save) -> None:
        """Delete the earlier saves that `--keep` leaves out; warn if the disk is nearly full."""
        config, newest, folder = self.state.config, save.path, save.path.parent
        keep, given = config.keep, (config.netg_path, config.netd_path)
        if isinstance(keep, int):
            checkpoint.prune(newest, min(keep, KEPT_STATES))
            checkpoint.thin_out(folder, save.epoch, keep, [Path(path) for path in given if path])
        else:
            checkpoint.prune(newest, KEPT_STATES)
        free = shutil.disk_usage(folder).free
        if free < self.state.size_of_save() and not self.warned:
            self.warned = True
            need = size(self.state.size_of_save())
            line = f"disk: {size(free)} are free, and the next save takes {need}"
            self.report.print_line(line, "yellow")

    def _show(self, save: Save, preview: Tensor) -> None:
        """Write the preview of a save, uint8 [3, H, W], and say in the log that it was saved."""
        name = f"{save.epoch}.png"
        picture, path = sample.as_picture(preview), self.folders.imgs / name
        self.report.spare.attempt("previews", lambda: sample.save_picture(picture, path))
        self.report.log_image("preview", preview, save.images)
        when = {"images": save.images, "seconds": round(save.seconds, 1)}
        self.report.log_event(save.step, {"event": "save", **when, "preview": name})
        self.report.print_detail(f"train: saved at step {save.step:,}, preview {name}")

    def try_save(self, G: nn.Module, last: bool) -> None:
        """Save; if that fails go on training, or, with the `last` state, wait for room.

        Raises Refused if there is none within ROOM_SECONDS.
        """
        try:
            self.save(G, at_once=last)
        except OSError as error:
            line = self.unsaved(self.state.step, error)
            if not last:
                self._say_next_try(line)
                return
            self.report.print_line(f"{line}; waiting {ROOM_SECONDS:.0f} s for room", "yellow")
            self._wait_for_room(G, line)

    def _say_next_try(self, line: str) -> None:
        pause = self.schedule.save_again - time.monotonic()
        self.report.print_line(f"{line}; training goes on, next try in {pause:.0f} s", "yellow")

    def unsaved(self, step: int, error: OSError) -> str:
        """What could not be saved, why, and what there still is."""
        kept = checkpoint.states(self.folders.checkpoints)[:1]
        found = f"{kept[0]} stays" if kept else "there is no earlier one"
        return f"the state of step {step} is not saved: {reason_of(error)}; {found}"

    def _wait_for_room(self, G: nn.Module, line: str) -> None:
        """Try again until the state is saved; raises Refused, saying `line`, after ROOM_SECONDS."""
        deadline = time.monotonic() + ROOM_SECONDS
        while time.monotonic() < deadline:
            time.sleep(ROOM_PAUSE_SECONDS)
            with contextlib.suppress(OSError):
                return self.save(G)
        state = self.state
        epoch = self.schedule.epoch(state.step)
        weights = self.folders.checkpoints / f"netg_{epoch}.pth"  # smaller: it may fit
        self.report.spare.attempt("weights", lambda: checkpoint.save(weights, G.state_dict()))
        path = checkpoint.state_of(weights.parent, state.step)
        self._show(Save(state.step, epoch, state.images, state.seconds, path), self.feed.preview(G))
        raise Refused(f"{line}; make room, and go on with --resume")

    def keep_if_best(self, G: nn.Module, score: float) -> None:
        """Write the state to `best.pth` if its `score` is the lowest so far."""
        self.settle(wait=True)  # only then is it known what is the best on disk
        state, before = self.state, self.state.best
        if not job.is_first() or (before is not None and score >= before):
            return
        state.best = score
        files = {self.folders.checkpoints / checkpoint.BEST: self.payload(G)}
        then = functools.partial(self._note_best, state.step, before)
        if copied := self._copied(files):
            self.writer.start(functools.partial(checkpoint.save_all, copied), then)
            return
        error: OSError | None = None
        try:
            checkpoint.save_all(files)
        except OSError as raised:
            error = raised
        then(error)

    def _note_best(self, step: int, before: float | None, error: OSError | None) -> None:
        """The best state is on disk, or the one that was it `before` still is."""

        def tell() -> None:
            if error is not None:
                raise error

        if self.report.spare.attempt("best states", tell):
            self.best_step = step
        else:
            self.state.best = before  # the one on disk is the best to go back to

    def earlier_states(self) -> Iterator[tuple[Path, SavedState]]:
        """The best state, then the others, newest first; those that are whole and fit this run."""
        self.settle(wait=True)
        folder, state = self.folders.checkpoints, self.state
        for path in [folder / checkpoint.BEST, *checkpoint.states(folder)]:
            with contextlib.suppress(Refused):  # damaged, or none
                saved = checkpoint.load(path)
                if validate.state_problem(saved) or not isinstance(saved.get("step"), int):
                    continue
                # after a kill, one on disk may be of a later step than the resumed run
                later = saved["step"] > state.step
                if not later and not validate.players_problem(saved, state.nets, state.config):
                    yield path, saved
