"""A family of GANs: its networks, its two losses, its update schedule, its defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from config import Config, Value
from gan import machine
from gan.losses import Loss, Nets
from gan.schedule import Updates, alternate
from gan.tasks import TASKS, Task

ORDINARY_WIDTH = 256  # channels of nets that are built without measuring them first


@dataclass(frozen=True)
class Family:
    """A row of `ROWS` in `gan/families.py` with its nets and losses."""

    build: Callable[[Config, int], Nets]  # (config, number of classes, 0 if unconditional)
    d_loss: Loss
    g_loss: Loss
    task: Task = TASKS["noise"]
    after_d: Callable[[Nets, Config], None] | None = None  # e.g. the weight clip of WGAN
    updates: Callable[[Config, int], Updates] = alternate  # (config, step) -> who is updated
    defaults: Mapping[str, Value] = field(default_factory=dict)

    def make(self, config: Config, classes: int, copies: int = 1) -> Nets:
        """The nets, of which this machine has memory for `copies`.

        Raises Refused if it has not: nets that are out of the ordinary are measured before they are
        built, since a system that has promised memory which it lacks ends the process later.
        """
        widths = (config.ngf, config.ndf, config.nz // 16, config.pool // 4)
        if max(widths) > ORDINARY_WIDTH:
            with torch.device("meta"):
                nets = self.build(config, classes)
            need = copies * sum(
                part.numel() * part.element_size()
                for net in (nets.G, nets.D)
                for part in net.state_dict().values()
            )
            machine.check_memory(
                need, f"--ngf={config.ngf}, --ndf={config.ndf}, --img-size={config.img_size}"
            )
        return self.build(config, classes)
