"""*The* training loop: `fit` plays any family's game within a budget, saves, logs, resumes."""

import copy
import dataclasses
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gan import checkpoint, sample
from gan.data import Images
from gan.errors import Refused
from gan.losses import Batch
from gan.report import Meters, Report

PREVIEWS = 64  # faces in a preview: candidates 0 to 63 of `generate` under the same seed
KEEP = 2  # states: the newest, and the one before it should the newest be damaged


@dataclass(frozen=True)
class Folders:
    """Where a run writes."""

    checkpoints: Path
    imgs: Path
    runs: Path


@dataclass(frozen=True)
class Outcome:
    """How `fit` ended."""

    state: Path
    epoch: int
    images: int
    seconds: float
    signal: int | None  # what stopped it before its budget was spent


class Ema(AveragedModel):
    """Moving average of G with a half-life of min(`cap`, 5 % of the images seen), in images.

    w_ema <- d w_ema + (1 - d) w with d = 0.5^(batch / half-life): Karras et al. 2018
    (arXiv:1710.10196), with the ramp of StyleGAN2-ADA. Its batch norm statistics are G's own
    until `sample.reestimate_bn` gives it those of the averaged weights.
    """

    def __init__(self, G: nn.Module, cap: int) -> None:
        self.decay = 0.0
        super().__init__(G, multi_avg_fn=self._average)
        self.cap = cap

    def _average(self, averages: Any, weights: Any, count: Any) -> None:
        torch._foreach_lerp_(list(averages), list(weights), 1 - self.decay)

    def update(self, G: nn.Module, batch: int, seen: int) -> None:
        """After a step that brought the images seen to `seen`."""
        self.decay = 0.5 ** (batch / min(self.cap, 0.05 * seen))
        self.update_parameters(G)


class State:
    """All that a run is at one step; what is saved and what is loaded is the same dict."""

    def __init__(self, family: Any, config: Any, device: torch.device) -> None:
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)  # the initial weights
        self.nets = family.build(config)
        self.nets.G.to(device).train()
        self.nets.D.to(device).train()
        self.restart()

    def restart(self) -> None:
        """Step 0 from the weights as they are."""
        config = self.config
        betas = (config.beta1, config.beta2)
        fused = self.device.type in ("cpu", "cuda")
        self.opt_g = torch.optim.Adam(self.nets.G.parameters(), config.lr1, betas, fused=fused)
        self.opt_d = torch.optim.Adam(self.nets.D.parameters(), config.lr2, betas, fused=fused)
        self.ema = Ema(self.nets.G, config.ema_images) if config.ema else None
        self.meters = Meters()
        self.step = 0
        self.seconds = 0.0

    @property
    def images(self) -> int:
        """Real images shown so far."""
        return self.step * self.config.batch_size

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "nets": {"G": self.nets.G.state_dict(), "D": self.nets.D.state_dict()},
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizers": {"G": self.opt_g.state_dict(), "D": self.opt_d.state_dict()},
            "meters": self.meters.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.nets.G.load_state_dict(saved["nets"]["G"])
        self.nets.D.load_state_dict(saved["nets"]["D"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
            self.ema.n_averaged.fill_(1)  # 0 would make the next update a plain copy
        rates = {"G": self.config.lr1, "D": self.config.lr2}
        for name, optimizer in (("G", self.opt_g), ("D", self.opt_d)):
            optimizer.load_state_dict(saved["optimizers"][name])
            for group in optimizer.param_groups:  # these may have been changed with --resume
                group["lr"] = rates[name]
                group["betas"] = (self.config.beta1, self.config.beta2)
        self.meters.load_state_dict(saved["meters"])
        self.step = saved["step"]
        self.seconds = saved["seconds"]

    def sampler(self) -> nn.Module:
        """The network to draw with: the average, its batch norm in order, or G itself."""
        G = copy.deepcopy(self.ema.module if self.ema else self.nets.G)
        if self.ema:
            config = self.config
            sample.reestimate_bn(G, config.seed, config.nz, config.batch_size, self.device)
        return G.eval()


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 64-bit seed for all chance in one step: a resumed run draws what it would have drawn.

    The finaliser of SplitMix64 (Steele et al. 2014), so that neighbours are unrelated.
    """
    mask = 2**64 - 1
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def make_batch(state: State, data: Images) -> Batch:
    """The batch of the state's step, on its device: reals in [-1, 1], half of them mirrored."""
    config = state.config
    pixels = torch.from_numpy(data.batch_at(state.step, config.batch_size, config.seed))
    real = pixels.to(state.device, non_blocking=True).float().div_(127.5).sub_(1)
    torch.manual_seed(step_seed(config.seed, state.step))
    if config.flip:
        mirrored = torch.rand(len(real), 1, 1, 1, device=state.device) < 0.5
        real = torch.where(mirrored, real.flip(3), real)
    return Batch(real, torch.randn(len(real), config.nz, device=state.device))


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def train_step(family: Any, state: State, batch: Batch) -> dict[str, Tensor]:
    """One batch: D if `step % d_every == 0`, then G if `step % g_every == 0`.

    The fakes of a batch are drawn once, with a graph only if G is due; D's weights ask for no
    gradients in G's update, which spares a third of D's backward pass.
    """
    nets, config = state.nets, state.config
    g_due = state.step % config.g_every == 0
    nets.G.requires_grad_(g_due)
    logs: dict[str, Tensor] = {}
    if state.step % config.d_every == 0:
        nets.D.requires_grad_(True)
        loss, more = family.d_loss(nets, batch, config)
        update(loss, state.opt_d)
        logs |= more
        if family.after_d:
            family.after_d(nets, config)
    if g_due:
        nets.D.requires_grad_(False)
        loss, more = family.g_loss(nets, batch, config)
        update(loss, state.opt_g)
        logs |= more
    state.step += 1
    if state.ema:
        state.ema.update(nets.G, config.batch_size, state.images)
    return logs


class Budget:
    """How much of the run is done: the largest of epochs, images and minutes, each of its limit."""

    def __init__(self, config: Any, steps_per_epoch: int) -> None:
        epoch_images = config.max_epoch * steps_per_epoch * config.batch_size
        limits = [limit for limit in (epoch_images, config.max_images) if limit]
        self.images = min(limits, default=0)
        self.seconds = 60 * config.max_minutes

    def fraction(self, images: int, seconds: float) -> float:
        used = ((images, self.images), (seconds, self.seconds))
        return max(done / limit for done, limit in used if limit)


class Stop:
    """Within it, Ctrl-C and SIGTERM only set `signal`; a second one acts as it always does."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        while self.before:
            signal.signal(*self.before.popitem())

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()


class Run:
    """One session of a run: its state, its clock and what it writes."""

    def __init__(
        self, state: State, data: Images, folders: Folders, events: Iterable[dict[str, Any]]
    ) -> None:
        self.state, self.data, self.folders = state, data, folders
        config = state.config
        self.steps_per_epoch = len(data) // config.batch_size
        self.budget = Budget(config, self.steps_per_epoch)
        self.started = time.monotonic() - state.seconds
        self.saved_at = time.monotonic()
        self.saved: tuple[int, Path] | None = None
        if self.fraction() >= 1:
            raise Refused(
                f"--resume: the budget of this run is spent ({state.images:,} images, "
                f"{state.seconds / 60:.1f} minutes); give a larger --max-epoch, --max-images or "
                "--max-minutes"
            )
        self.report = Report(folders.runs, state.step, state.images, self.fraction())
        for event in events:
            self.report.event(state.step, event)
        self.window = (time.monotonic(), state.step)

    def fraction(self) -> float:
        return self.budget.fraction(self.state.images, self.state.seconds)

    @property
    def epoch(self) -> int:
        """The pass over the data that the last step was part of, from 1."""
        return -(-self.state.step // self.steps_per_epoch)

    def log(self) -> None:
        """Write the averages since the last log."""
        state, now = self.state, time.monotonic()
        if not state.meters.finite():
            raise Refused(
                f"the losses are no longer numbers at step {state.step}; lower --lr1 and --lr2 and "
                f"go on from {self.saved[1] if self.saved else 'the last state'} with --resume"
            )
        then, step = self.window
        speed = (state.step - step) * state.config.batch_size / max(now - then, 1e-9)
        values = {"epoch": state.step / self.steps_per_epoch, "seconds": round(state.seconds, 1)}
        self.report.scalars(
            state.step, state.images, {**values, "images/s": speed, **state.meters.read()}
        )
        self.window = (now, state.step)

    def save(self) -> None:
        """Preview, weights and state; the state last, so that whatever it names exists."""
        state, config = self.state, self.state.config
        if not state.meters.finite():
            self.log()
        began = time.monotonic()
        G = state.sampler()
        z = sample.noise(config.seed, 0, PREVIEWS, config.nz)
        preview = sample.grid(sample.draw_uint8(G, z, config.batch_size, state.device))
        sample.save_picture(sample.as_picture(preview), self.folders.imgs / f"{self.epoch}.png")
        self.report.picture("preview", preview, state.images)
        folder = self.folders.checkpoints
        checkpoint.save(folder / f"netg_{self.epoch}.pth", G.state_dict())
        checkpoint.save(folder / f"netd_{self.epoch}.pth", state.nets.D.state_dict())
        checkpoint.write_beside(folder / "config.json", config.save)
        path = folder / f"state_{state.step:08}.pth"
        payload = {**state.state_dict(), "data": self.data.digest}
        if state.ema:
            payload["ema"] = G.state_dict()
        checkpoint.save(path, payload)
        checkpoint.prune(path, KEEP)
        self.saved, self.saved_at = (state.step, path), time.monotonic()
        self.window = (self.window[0] + self.saved_at - began, self.window[1])

    def save_due(self) -> bool:
        config = self.state.config
        return (
            self.state.step % (config.save_every * self.steps_per_epoch) == 0
            or time.monotonic() - self.saved_at >= 60 * config.save_minutes
        )

    def play(self, family: Any) -> Outcome:
        """Train until the budget is spent or a signal comes; then save."""
        state = self.state
        with Stop() as stop:
            while self.fraction() < 1 and stop.signal is None:
                state.meters.add(train_step(family, state, make_batch(state, self.data)))
                state.seconds = time.monotonic() - self.started
                if state.step % state.config.log_every == 0:
                    self.log()
                if self.save_due():
                    self.save()
                self.report.progress(self.fraction())
            if self.saved is None or self.saved[0] != state.step:
                self.save()
        assert self.saved is not None
        return Outcome(self.saved[1], self.epoch, state.images, state.seconds, stop.signal)


def fit(
    family: Any,
    config: Any,
    data: Images,
    folders: Folders,
    device: torch.device,
    *,
    saved: dict[str, Any] | None = None,
    start: Any = None,
    events: Iterable[dict[str, Any]] = (),
) -> Outcome:
    """Train `family` on `data` within the budget of `config`.

    `saved` is a state to go on from; `start(nets)` loads given weights into a new run; `events`
    are written to the log first. Raises Refused if the state belongs to other images.
    """
    if saved is not None and saved["data"] != data.digest:
        raise Refused(
            f"--resume: the run was trained on other images than the {len(data):,} in "
            f"{data.folder}; start a new run from its weights with --netg-path and --netd-path"
        )
    state = State(family, config, device)
    if start:
        start(state.nets)
        state.restart()
    if saved is not None:
        state.load_state_dict(saved)
    run = Run(state, data, folders, events)
    try:
        return run.play(family)
    finally:
        run.report.close()
