"""The whole state of a run at one step: nets, optimisers, average, meters; one dict on disk."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from config import Config, RunFacts
from gan import health, sample, shared
from gan.family import Family
from gan.losses import Nets
from gan.report import Meters
from gan.schedule import Updates, learning_rate_scale

FROZEN_SHARE = 1 / 3  # of the budget
SavedState = dict[str, Any]  # Any: a file of tensors, numbers, strings and containers of them
SCORE_VERSION = 2  # of "score"; it was KID (lite0) in states that do not name one


class Ema:
    """Moving average of G with a half-life of min(`cap`, 5 % of the images seen), in images.

    w_ema <- d w_ema + (1 - d) w with d = 0.5^(batch / half-life): Karras et al. 2018
    (arXiv:1710.10196), with the ramp of StyleGAN2-ADA. Its batch norm statistics are G's own
    until `sample.reestimate_bn` gives it those of the averaged weights.
    """

    def __init__(self, G: nn.Module, cap: int) -> None:
        self.module, self.cap = copy.deepcopy(G), cap
        self.begun = False  # the first update is a copy
        # listed once: to walk through the modules of a net takes longer than to average its weights
        self.averages: list[Tensor] = list(self.module.parameters())
        self.weights: list[Tensor] = list(G.parameters())
        self.own_buffers, self.buffers = list(self.module.buffers()), list(G.buffers())

    @torch.no_grad()
    def update(self, batch: int, seen: int) -> None:
        """After a step that brought the images seen to `seen`."""
        decay = 0.5 ** (batch / min(self.cap, 0.05 * seen)) if self.begun else 0.0
        self.begun = True
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        if self.buffers:
            torch._foreach_copy_(self.own_buffers, self.buffers)


def _adam(net: nn.Module, rate: float, config: Config, fused: bool) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(net.parameters(), rate, betas, fused=fused)


def _rmsprop(net: nn.Module, rate: float, config: Config, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(net.parameters(), rate)


OPTIMIZERS: dict[str, Callable[[nn.Module, float, Config, bool], torch.optim.Optimizer]] = {
    "adam": _adam,
    "rmsprop": _rmsprop,
}


def first_layers(D: nn.Module) -> list[nn.Module]:
    """The first half of the convolutional or, without any, the linear layers of D."""
    for kind in (nn.Conv2d, nn.Linear):
        found = [layer for layer in D.modules() if isinstance(layer, kind)]
        if found:
            return list(found[: len(found) // 2])
    return []


def let_learn(optimizer: torch.optim.Optimizer, whether: bool) -> None:
    """Let the weights of one player have gradients, or not; its modules are not walked through."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.requires_grad = whether


def weights_size(net: nn.Module) -> int:
    """Bytes of all weights and buffers of `net`."""
    return sum(value.nbytes for value in net.state_dict().values())


def comparable_best(saved: SavedState) -> float | None:
    """The best score of a state; None if it was another kind of score, or there is none."""
    return saved["best"] if saved.get("score_version") == SCORE_VERSION else None


class State:
    """The whole state of a run at one step; it is saved and loaded as one dict."""

    def __init__(
        self, family: Family, config: Config, facts: RunFacts, device: torch.device
    ) -> None:
        self.family, self.config, self.facts, self.device = family, config, facts, device
        self.fused = device.type in ("cpu", "cuda")  # Adam in one kernel
        torch.manual_seed(config.seed)  # the initial weights
        # weights, gradients, two moments, average
        self.nets: Nets = family.make(config, len(facts.class_names), copies=5)
        for net in (self.nets.G, self.nets.D):
            net.to(device, memory_format=family.task.memory_format).train()  # type: ignore[call-overload]
        self.restart()

    def restart(self) -> None:
        """Go back to step 0 with the current weights."""
        config = self.config
        make = OPTIMIZERS[config.optimizer]
        self.opt_g = make(self.nets.G, config.lr1, config, self.fused)
        self.opt_d = make(self.nets.D, config.lr2, config, self.fused)
        self.ema = Ema(self.nets.G, config.ema_images) if config.ema else None
        for net in (self.nets.G, self.nets.D):
            shared.share(net)
        self.meters = Meters()
        self.monitor = health.Monitor()
        self.step = 0
        self.seconds = 0.0
        self.frozen = False  # the first layers of D
        self.rescues = 0  # each halves both learning rates
        self.best: float | None = None  # the best score so far

    @property
    def images(self) -> int:
        """Real images shown so far."""
        return self.step * self.config.batch_size

    @property
    def due(self) -> Updates:
        """Who is updated in this step."""
        return self.family.updates(self.config, self.step)

    def state_dict(self) -> SavedState:
        return {
            "config": dataclasses.asdict(self.config),
            "facts": {**vars(self.facts), "class_names": list(self.facts.class_names)},
            "nets": {"G": self.nets.G.state_dict(), "D": self.nets.D.state_dict()},
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizers": {"G": self.opt_g.state_dict(), "D": self.opt_d.state_dict()},
            "meters": self.meters.state_dict(),
            "health": self.monitor.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "rescues": self.rescues,
            "best": self.best,
            "score_version": SCORE_VERSION,
        }

    def size_on_disk(self) -> int:
        """About how many bytes a saved state has, with the moments that optimisers will have."""
        G, D = weights_size(self.nets.G), weights_size(self.nets.D)
        moments = 2 if self.config.optimizer == "adam" else 1
        return (1 + moments) * (G + D) + (G if self.ema else 0)

    def size_of_save(self) -> int:
        """The same of a save: the state, and the weights of G and D beside it."""
        return self.size_on_disk() + weights_size(self.nets.G) + weights_size(self.nets.D)

    def size_of_run(self) -> int:
        """The same of all that `--keep` leaves at the end; of "all" without the earlier weights."""
        keep = self.config.keep if isinstance(self.config.keep, int) else 1
        states = 2 if self.config.keep == 1 else 3  # the newest, the best and the one before it
        return (
            self.size_of_save()
            + (states - 1) * self.size_on_disk()
            + (keep - 1) * (weights_size(self.nets.G) + weights_size(self.nets.D))
        )

    def load_state_dict(self, saved: SavedState) -> None:
        """Raises KeyError, RuntimeError or ValueError if the state is of other networks."""
        self.step = saved["step"]
        self.seconds = saved["seconds"]
        self.rescues = saved["rescues"]
        self.best = comparable_best(saved)
        self.meters.load_state_dict(saved["meters"])
        self.monitor.load_state_dict(saved["health"])
        self.load_players(saved)

    def load_players(self, saved: SavedState) -> None:
        """Load only the nets, the average and the optimisers, with this run's betas."""
        self.nets.G.load_state_dict(saved["nets"]["G"])
        self.nets.D.load_state_dict(saved["nets"]["D"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
            self.ema.begun = True  # else the next update would be a plain copy
        for name, optimizer in (("G", self.opt_g), ("D", self.opt_d)):
            optimizer.load_state_dict(saved["optimizers"][name])
            for weight, moments in optimizer.state.items():
                for key, value in moments.items():  # fused Adam needs the weight's memory layout
                    if value.shape == weight.shape:
                        moments[key] = torch.empty_like(weight).copy_(value)
            for group in optimizer.param_groups:
                if "betas" in group:  # these may have been changed with --resume
                    group["betas"] = (self.config.beta1, self.config.beta2)
                    group["fused"] = self.fused  # and this may be another device

    def set_rates(self, fraction: float) -> None:
        """Set the learning rates of the next step, after `fraction` of the budget, and who learns.

        In the first third of a run that starts from another one, D's first layers stay as they
        are: what they see is much the same in all faces (Mo et al. 2020, arXiv:2002.10964).
        """
        config = self.config
        self.frozen = bool(config.init) and fraction < FROZEN_SHARE
        scale = 0.5**self.rescues * learning_rate_scale(
            self.step, fraction, config.warm_up, config.lr_end, config.lr_fall
        )
        for optimizer, rate in ((self.opt_g, config.lr1), (self.opt_d, config.lr2)):
            for group in optimizer.param_groups:
                group["lr"] = scale * rate

    def let_d_learn(self) -> None:
        """Let the weights of D have gradients, without those that are frozen."""
        let_learn(self.opt_d, True)
        if self.frozen:
            for layer in first_layers(self.nets.D):
                layer.requires_grad_(False)

    def sampler(self, source: sample.InputSource) -> nn.Module:
        """A copy of the network to draw with: the average with new batch norm statistics, or G."""
        G = copy.deepcopy(self.ema.module if self.ema else self.nets.G)
        G = shared.unshare(G)
        if self.ema:
            sample.reestimate_bn(G, source, self.config.batch_size, self.device)
        return G.eval()
