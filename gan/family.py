"""A family of GANs: its networks, its two losses, its update schedule, its defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from config import Config, Value
from gan.losses import Loss, Nets
from gan.schedule import Updates, alternate
from gan.tasks import TASKS, Task


@dataclass(frozen=True)
class Family:
    """A row of FAMILIES in `models.py`."""

    build: Callable[[Config, int], Nets]  # (config, number of classes, 0 if unconditional)
    d_loss: Loss
    g_loss: Loss
    task: Task = TASKS["noise"]
    after_d: Callable[[Nets, Config], None] | None = None  # e.g. the weight clip of WGAN
    updates: Callable[[Config, int], Updates] = alternate  # (config, step) -> who is updated
    defaults: Mapping[str, Value] = field(default_factory=dict)
    uses: tuple[str, ...] = ()  # settings of its losses, which other families refuse
    lacks: tuple[str, ...] = ()  # settings of its task that it does not have

    @property
    def settings(self) -> list[str]:
        """The settings of this family that not all families have."""
        return [name for name in (*self.task.settings, *self.uses) if name not in self.lacks]
