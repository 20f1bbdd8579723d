"""All that a run is at one step: nets, optimisers, average, meters; one dict saved and loaded."""

import copy
import dataclasses
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from gan import health, sample
from gan.budget import pace
from gan.report import Meters

LEAD = 25  # D updates to one of G in the first `d_lead` steps (Arjovsky et al. 2017 took 100)


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


def make_optimizer(net: nn.Module, rate: float, config: Any, fused: bool) -> torch.optim.Optimizer:
    """Adam or RMSprop, by the knobs of `config`."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(net.parameters(), rate)
    return torch.optim.Adam(net.parameters(), rate, (config.beta1, config.beta2), fused=fused)


class State:
    """All that a run is at one step; what is saved and what is loaded is the same dict."""

    def __init__(self, family: Any, config: Any, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.fused = device.type in ("cpu", "cuda")  # Adam in one kernel
        torch.manual_seed(config.seed)  # the initial weights
        self.nets = family.build(config)
        # channels last trains convolutions 8 to 14 % faster, but instance norm slower
        layout = torch.channels_last if family.data == "images" else torch.preserve_format
        for net in (self.nets.G, self.nets.D):
            net.to(device, memory_format=layout).train()
        self.restart()

    def restart(self) -> None:
        """Step 0 from the weights as they are."""
        config = self.config
        self.opt_g = make_optimizer(self.nets.G, config.lr1, config, self.fused)
        self.opt_d = make_optimizer(self.nets.D, config.lr2, config, self.fused)
        self.ema = Ema(self.nets.G, config.ema_images) if config.ema else None
        self.meters = Meters()
        self.monitor = health.Monitor()
        self.step = 0
        self.seconds = 0.0
        self.rescues = 0  # each halves both learning rates
        self.best: float | None = None  # the best score so far

    @property
    def images(self) -> int:
        """Real images shown so far."""
        return self.step * self.config.batch_size

    def g_period(self, step: int) -> int:
        """Steps from one update of G to the next, at `step`: `g_every`, or at first 25."""
        return LEAD if step < self.config.d_lead else self.config.g_every

    @property
    def g_due(self) -> bool:
        """Whether G is updated in this step."""
        return self.step % self.g_period(self.step) == 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "nets": {"G": self.nets.G.state_dict(), "D": self.nets.D.state_dict()},
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizers": {"G": self.opt_g.state_dict(), "D": self.opt_d.state_dict()},
            "meters": self.meters.state_dict(),
            "health": self.monitor.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "rescues": self.rescues,
            "best": self.best,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.step = saved["step"]
        self.seconds = saved["seconds"]
        self.rescues = saved["rescues"]
        self.best = saved["best"]
        self.meters.load_state_dict(saved["meters"])
        self.monitor.load_state_dict(saved["health"])
        self.load_players(saved)

    def load_players(self, saved: dict[str, Any]) -> None:
        """The nets, the average and the optimisers alone, at this run's learning rates."""
        self.nets.G.load_state_dict(saved["nets"]["G"])
        self.nets.D.load_state_dict(saved["nets"]["D"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
            self.ema.n_averaged.fill_(1)  # 0 would make the next update a plain copy
        for name, optimizer in (("G", self.opt_g), ("D", self.opt_d)):
            optimizer.load_state_dict(saved["optimizers"][name])
            for weight, moments in optimizer.state.items():
                for key, value in moments.items():  # fused Adam wants them laid out as the weight
                    if value.shape == weight.shape:
                        moments[key] = torch.empty_like(weight).copy_(value)
            for group in optimizer.param_groups:
                if "betas" in group:  # these may have been changed with --resume
                    group["betas"] = (self.config.beta1, self.config.beta2)
                    group["fused"] = self.fused  # and this may be another device

    def set_rates(self, fraction: float) -> None:
        """The learning rates of the next step, `fraction` of the budget spent."""
        config = self.config
        scale = 0.5**self.rescues * pace(
            self.step, fraction, config.warm_up, config.lr_end, config.lr_fall
        )
        for optimizer, rate in ((self.opt_g, config.lr1), (self.opt_d, config.lr2)):
            for group in optimizer.param_groups:
                group["lr"] = scale * rate

    def sampler(self, inputs: sample.Inputs) -> nn.Module:
        """The network to draw with: the average, its batch norm in order, or G itself."""
        G = copy.deepcopy(self.ema.module if self.ema else self.nets.G)
        if self.ema:
            sample.reestimate_bn(G, inputs, self.config.batch_size, self.device)
        return G.eval()
