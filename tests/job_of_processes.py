"""What each process of a job does in tests/test_distributed.py."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from config import Config, RunFacts, resolve
from gan import container, distributed, job, loop, shared
from gan.errors import Refused
from gan.families import ROWS
from gan.feed import step_seed
from gan.losses import Batch
from gan.state import State
from gan.tasks import TASKS
from models import FAMILIES

BATCH = 8
SMALL = {"batch_size": BATCH, "img_size": 32, "ngf": 4, "ndf": 4, "augment": 0.5, "pool": 5}


def state_of(name: str) -> State:
    family = FAMILIES[name]
    lacks = (*ROWS[name].lacks, *(() if "pool" in ROWS[name].uses else ("pool",)))
    settings = {key: value for key, value in SMALL.items() if key not in lacks}
    if name == "pix2pix":
        settings["img_size"] = 64  # the smallest with dropout
    config = resolve(family.defaults, {"family": name, "gpu": False}, settings)
    return State(family, config, RunFacts(), torch.device("cpu"))


def batch_of(config: Config, from_noise: bool, step: int) -> Batch:
    """The slice of this process of the random batch of a step."""
    torch.manual_seed(step_seed(0, step))
    side = config.img_size

    def pictures(channels: int) -> Tensor:
        return distributed.own(torch.rand(BATCH, channels, side, side) * 2 - 1)

    real = pictures(config.channels if from_noise else config.channels_wanted)
    noise = distributed.own(torch.randn(BATCH, config.nz))
    given = noise if from_noise else pictures(config.channels_given)
    return Batch(real, given, augment=config.augment, step=step)


def steps(out: str, *names: str) -> None:
    """Some steps of each family; the first process writes state and logs to the file `out`."""
    distributed.start(on_gpu=False)
    # In float64 the order of sums makes no difference that Adam could enlarge.
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    found = {}
    for name in names:
        state = state_of(name)
        logs = []
        for step in range(20 if name == "mlp" else 6):
            state.set_rates(0.1)
            batch = batch_of(state.config, state.family.task is TASKS["noise"], step)
            logs.append({k: float(v) for k, v in loop.train_step(state, batch).items()})
        saved = state.state_dict()
        found[name] = {k: saved[k] for k in ("nets", "ema", "optimizers")} | {"logs": logs}
    if job.is_first():
        torch.save(found, out)
    distributed.stop()


def exchanges() -> dict[str, object]:
    """Every exchange once."""
    me = distributed.rank()
    shared_norm = torch.nn.BatchNorm2d(3)
    shared.share(shared_norm)
    torch.manual_seed(5)
    whole = torch.rand(8, 3, 4, 4)
    mine = distributed.own(whole).clone().requires_grad_(True)
    out = shared_norm(mine)
    distributed.mean(out.square().mean((1, 2, 3)).sum()).backward()
    return {
        "exchange": distributed.exchange(f"of {me}"),
        "first": distributed.from_first(lambda: f"told by {me}"),
        "trusting": distributed.first_then_all(lambda: container._trusting),
        "agreed": distributed.agree([me, -me]),
        "average": distributed.average([float(me), None]),
        "gathered": distributed.gather(torch.full((me + 1, 2), float(me))).tolist(),
        "rand": torch.cat([*distributed.exchange(_rand())]).tolist(),
        "normed": torch.cat(distributed.exchange(out.detach())).flatten().tolist(),
        "normed_kind": type(shared.unshare(shared_norm)).__name__,
        "running": [*shared_norm.running_mean.tolist(), *shared_norm.running_var.tolist()],
        "gradient": torch.cat(distributed.exchange(mine.grad)).flatten().tolist(),
    }


def _rand() -> Tensor:
    torch.manual_seed(3)
    return distributed.rand(2, device=torch.device("cpu"))


def refusals() -> dict[str, str]:
    """What all processes are told of a refusal in one of them."""

    def refuse(where: int | None, text: str = "no such folder") -> None:
        if where in (None, distributed.rank()):
            raise Refused(text)

    calls = {
        "first": lambda: distributed.from_first(lambda: refuse(0)),
        "second": lambda: distributed.everywhere(lambda: refuse(1)),
        "all": lambda: distributed.everywhere(lambda: refuse(None)),
        "first then all": lambda: distributed.first_then_all(lambda: refuse(0)),
        "then the second": lambda: distributed.first_then_all(lambda: refuse(1)),
        "other data": lambda: distributed.check_equal({"the data": f"{distributed.rank()}"}),
        "batch": lambda: distributed.check_batch(7),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = ""
        except Refused as error:
            found[name] = str(error)
    return found


def leave() -> dict[str, str]:
    """The second process leaves; what the first is told when it next needs it."""
    if distributed.rank() == 1:
        os._exit(0)
    try:
        distributed.agree([0.0])
    except job.Left as error:
        return {"left": str(error)}
    return {}


def tell() -> None:
    """Write what every exchange and every refusal gave to `<rank>.json`, then leave."""
    own_stdout = sys.stdout
    distributed.start(on_gpu=False)
    found: dict[str, object] = {"rank": distributed.rank(), "count": distributed.count()}
    found |= exchanges() | {"refused": refusals()}
    found["silent"] = sys.stdout is not own_stdout
    Path(f"{distributed.rank()}.json").write_text(json.dumps(found))
    left = leave()
    Path("left.json").write_text(json.dumps(left))
    os._exit(0)  # the job cannot be left in order any more
