"""States of tiny runs, for the tests that train."""

import torch

from config import Config, RunFacts
from gan.family import Family
from gan.state import State
from models import find_family

CPU = torch.device("cpu")


def facts_of(
    config: Config, classes: tuple[str, ...] = (), mixed_precision: bool = False
) -> RunFacts:
    """What a run of `config` would find out; images may be mirrored unless it says no."""
    return RunFacts(classes, mixed_precision, flip=config.flip is not False)


def new_state(
    config: Config,
    *,
    family: Family | None = None,
    classes: tuple[str, ...] = (),
    mixed_precision: bool = False,
) -> State:
    """Step 0 of a run of `config`; `family` stands in for the row that `config.family` names."""
    row = family or find_family(config.family)
    return State(row, config, facts_of(config, classes, mixed_precision), CPU)
