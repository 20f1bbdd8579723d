"""The curves of a run in Weights & Biases too, by its own sync of TensorBoard's events.

wandb is a package that only `--wandb` asks for. What it does with no network, or with no account,
its own variables say (`WANDB_MODE=offline`).
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

from gan.errors import Refused, what_failed

PROJECT = "facegan"  # of --wandb without a name


def check() -> None:
    """Raises Refused, without torch, if the package is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise Refused(
            "--wandb: needs a package that nothing else does: pip install wandb; without the flag, "
            "tensorboard --logdir runs shows the same curves"
        )


@contextlib.contextmanager
def synced(
    wanted: bool | str, name: str, settings: Mapping[str, object], folder: Path
) -> Iterator[None]:
    """Within it wandb sends what TensorBoard is told in `folder`, as run `name`.

    `wanted` is False for not at all, True, or the name of the project. Raises Refused if wandb does
    not start.
    """
    if not wanted:
        yield
        return
    import wandb
    from tensorboardX import writer

    project = PROJECT if wanted is True else str(wanted)
    try:
        run = wandb.init(project=project, name=name, config=dict(settings), sync_tensorboard=True)
    except wandb.Error as error:
        way_out = "WANDB_MODE=offline keeps the curves here until `wandb sync`"
        raise Refused(f"--wandb: {what_failed(error)}; {way_out}") from None
    # wandb looks into the folders that this class is opened for; our own events go past it
    writer.EventFileWriter(str(folder)).close()
    failed = 1
    try:
        yield
        failed = 0
    finally:
        run.finish(exit_code=failed)
