"""Many processes that train one run: what each takes of a batch, and what they exchange.

The only file that names `torch.distributed`. `torchrun` starts the processes; alone, every function
here returns what it was given. One process, the first, reads states and writes files. All draw the
random numbers of the whole batch, and each takes its own slice: so a run on one, two or four
processes shows D the same images, and the same noise, at every step.
"""

import contextlib
import datetime
import hashlib
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gan import container, job
from gan.errors import Refused

STEP_TIMEOUT = datetime.timedelta(minutes=10)  # for one exchange within a step
LONG_TIMEOUT = datetime.timedelta(days=7)  # for what the others wait for: a cache, a save
ROLL_CALL = datetime.timedelta(seconds=5)  # in which those that are still there answer

Value = TypeVar("Value")
Sliced = TypeVar("Sliced", bound=Any)  # Any: a tensor or an array; both are sliced alike

_control: "list[dist.ProcessGroup]" = []  # the group of objects and decisions: on the CPU, patient


# --- who is there --------------------------------------------------------------------------------


def rank() -> int:
    """The number of this process, 0 to `count()` - 1."""
    return dist.get_rank() if _control else 0


def count() -> int:
    """How many processes train this run."""
    return dist.get_world_size() if _control else 1


def start(on_gpu: bool) -> None:
    """Join the other processes of the job. Does nothing in a process that is alone.

    With `on_gpu`, where there is CUDA, each process has a device of its own.
    Raises Refused if there are fewer devices than processes.
    """
    if not job.is_job() or _control:
        return
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    on_gpu = on_gpu and there > 0
    if on_gpu and local >= there:
        raise Refused(
            f"--nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE', local + 1)}: each process needs "
            f"a GPU, and {platform.node()} has {there}; start fewer, or give --gpu=False"
        )
    if on_gpu:
        torch.cuda.set_device(local)
    with _naming_who_left():
        store, own, every = next(dist.rendezvous("env://"))
        # Some versions of torchrun keep the store of the processes before a restart, and with it
        # their addresses, which nobody answers any more.
        store = dist.PrefixStore(f"attempt_{job.attempt()}", store)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(
            backend, store=store, rank=own, world_size=every, timeout=STEP_TIMEOUT
        )
        control = dist.new_group(backend="gloo", timeout=LONG_TIMEOUT)
        assert isinstance(control, dist.ProcessGroup)
        _control.append(control)
    if not job.is_first():
        _be_silent()


def _be_silent() -> None:
    """Let the first process alone print; what is a bug of this program is still shown."""
    own = sys.stderr
    sys.stdout = sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.excepthook = lambda kind, error, trace: traceback.print_exception(
        kind, error, trace, file=own
    )


def stop() -> None:
    """Leave the job."""
    if _control:
        _control.clear()
        dist.destroy_process_group()


@contextlib.contextmanager
def _naming_who_left() -> Iterator[None]:
    """Turn a failed exchange into `job.Left`, which names the processes that do not answer."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lost = _roll_call() if _control else []
        which = f" (process {', '.join(map(str, lost))} of {dist.get_world_size()})" if lost else ""
        raise job.Left(
            f"a process of this job has left or does not answer{which}; --resume goes on from "
            "the newest state, and torchrun --max-restarts=3 does that by itself"
        ) from None


def _roll_call() -> list[int]:
    """The processes that do not answer the first one; the others learn of none."""
    sign, lost = torch.zeros(1), []
    if not job.is_first():
        with contextlib.suppress(RuntimeError):
            dist.isend(sign, 0, _control[0])
        return []
    for place in range(1, dist.get_world_size()):
        try:
            answer = dist.irecv(sign, place, _control[0])
            if answer is None or not answer.wait(ROLL_CALL):
                lost.append(place)
        except RuntimeError:
            lost.append(place)
    return lost


# --- what they exchange --------------------------------------------------------------------------


def exchange(value: Value) -> list[Value]:
    """The `value` of every process, in their order. Any object that can be pickled."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    with _naming_who_left():
        dist.all_gather_object(found, value, _control[0])
    return found


def from_first(call: Callable[[], Value]) -> Value:
    """What `call` returns in the first process; only there it is called.

    If it raises Refused or OSError there, all processes raise Refused with its words.
    """
    if count() == 1:
        return call()
    sent: list[Any] = [None, ""]
    if job.is_first():
        sent[0], sent[1] = _outcome(call)
    with _naming_who_left():
        dist.broadcast_object_list(sent, 0, _control[0])
    if sent[1]:
        raise Refused(sent[1])
    value: Value = sent[0]
    return value


def everywhere(call: Callable[[], Value]) -> Value:
    """What `call` returns here, once it has returned in all processes.

    If it raises Refused or OSError in one of them, all raise Refused and name it.
    """
    if count() == 1:
        return call()
    value, problem = _outcome(call)
    _refuse_together(problem)
    return cast(Value, value)


def _refuse_together(problem: str | None) -> None:
    """Raises Refused in all processes if one of them has a `problem`; None: it was not asked."""
    problems = exchange(problem)
    if any(problems):
        guilty = next(i for i, text in enumerate(problems) if text)
        where = exchange(platform.node())[guilty]
        known = problems[0] and all(text for text in problems if text is not None)
        text = str(problems[guilty])
        raise Refused(text if known else f"process {guilty} on {where}: {text}")


def first_then_all(call: Callable[[], Value]) -> Value:
    """`everywhere`, but in turns: the first process, the first of each other machine, the rest.

    What the first ones write and check, such as a cache, is there for the rest, who do not check
    it again.
    """
    if count() == 1:
        return call()
    turn = 0 if job.is_first() else 1 if os.environ["LOCAL_RANK"] == "0" else 2
    value: Value | None = None
    for now in range(3):
        problem = None
        if now == turn:
            with container.trusting() if turn == 2 else contextlib.nullcontext():
                value, problem = _outcome(call)
        _refuse_together(problem)
    return cast(Value, value)


def _outcome(call: Callable[[], Value]) -> tuple[Value | None, str]:
    """What `call` returns, and the words of its refusal."""
    try:
        return call(), ""
    except (Refused, OSError) as error:
        return None, str(error) or type(error).__name__


def check_equal(what: Mapping[str, str]) -> None:
    """Raises Refused if a value of `what` (name -> digest) is not the same in all processes."""
    found = exchange((platform.node(), dict(what)))
    here, expected = found[0]
    for place, (node, other) in enumerate(found):
        for name in expected:
            if other[name] != expected[name]:
                raise Refused(
                    f"{name} of process {place} on {node} is not that of process 0 on {here}; all "
                    "processes of a job need the same"
                )


def agree(values: Sequence[float]) -> list[float]:
    """The largest of each value over all processes: one small exchange, on the CPU."""
    if count() == 1:
        return list(values)
    sent = torch.tensor(values, dtype=torch.float64)
    with _naming_who_left():
        dist.all_reduce(sent, dist.ReduceOp.MAX, _control[0])
    return sent.tolist()


def _all_reduce(tensor: Tensor) -> Tensor:
    """The mean over all processes, in place."""
    with _naming_who_left():
        dist.all_reduce(tensor)
    return tensor.div_(count())


class _Mean(torch.autograd.Function):
    """The mean over processes; its gradient is the mean of theirs."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return _all_reduce(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        mean: Tensor = _Mean.apply(gradients[0])
        return mean


def mean(x: Tensor) -> Tensor:
    """The mean of `x` over all processes, with a gradient.

    Where losses are means over the own slice and gradients are averaged, this makes a statistic
    of the slice one of the whole batch.
    """
    if count() == 1:
        return x
    found: Tensor = _Mean.apply(x)
    return found


def average_gradients(
    optimizer: torch.optim.Optimizer, logs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Replace the gradients of `optimizer` by their means over all processes; so the logs.

    One exchange of one flat tensor: the nets are small, and what an exchange costs is mostly its
    beginning. The logs, scalars, travel with it.
    """
    if count() == 1:
        return dict(logs)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    parts = [*gradients, *logs.values()]
    flat = _all_reduce(torch.cat([part.flatten().float() for part in parts]))
    means = [x.view(part.shape) for x, part in
             zip(flat.split([part.numel() for part in parts]), parts, strict=True)]  # fmt: skip
    torch._foreach_copy_(gradients, means[: len(gradients)])
    return dict(zip(logs, means[len(gradients) :], strict=True))


def average(values: Sequence[float | None]) -> list[float | None]:
    """The mean of each number over all processes; None stays None, which it has to be in all."""
    if count() == 1:
        return list(values)
    sent = torch.tensor([0.0 if value is None else value for value in values], dtype=torch.float64)
    with _naming_who_left():
        dist.all_reduce(sent, group=_control[0])
    means = (sent / count()).tolist()
    return [None if value is None else x for value, x in zip(values, means, strict=True)]


def gather(x: Tensor) -> Tensor:
    """The slices of all processes, one after the other: [n, ...] -> [count n, ...], no gradient.

    Slices may differ in length.
    """
    if count() == 1:
        return x
    lengths = exchange(len(x))
    padded = F.pad(x, (0, 0) * (x.dim() - 1) + (0, max(lengths) - len(x))).contiguous()
    parts = [torch.empty_like(padded) for _ in lengths]
    with _naming_who_left():
        dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def digest_of_program() -> str:
    """A hash of the source of this program."""
    root = Path(__file__).parents[1]
    found = hashlib.blake2b(torch.__version__.encode(), digest_size=16)
    for file in sorted([*root.glob("*.py"), *root.glob("gan/*.py"), *root.glob("commands/*.py")]):
        found.update(file.read_bytes())
    return found.hexdigest()


def send_weights(*nets: nn.Module) -> None:
    """Give the weights and buffers of the first process to all others."""
    if count() == 1:
        return
    with torch.no_grad(), _naming_who_left():
        for net in nets:
            for value in net.state_dict().values():
                sent = value.contiguous()
                dist.broadcast(sent, 0)
                value.copy_(sent)


# --- slices of a batch ---------------------------------------------------------------------------


def own_part(length: int) -> slice:
    """Which of `length` things are those of this process; the slices differ by one at most."""
    return slice(length * rank() // count(), length * (rank() + 1) // count())


def own(whole: Sliced) -> Sliced:
    """The slice of this process, along the first axis."""
    return whole[own_part(len(whole))] if count() > 1 else whole


def rand(length: int, *shape: int, device: torch.device) -> Tensor:
    """`torch.rand` for the slices of all processes, each of `length`; then the own one.

    From the same seed all processes draw the numbers that a single one would.
    """
    return own(torch.rand(length * count(), *shape, device=device))


def randint(low: int, high: int, length: int, *shape: int, device: torch.device) -> Tensor:
    """`torch.randint`, as `rand`."""
    return own(torch.randint(low, high, (length * count(), *shape), device=device))


def check_batch(batch_size: int) -> None:
    """Raises Refused if the processes cannot share a batch evenly."""
    if rest := batch_size % count():
        fitting = [size for size in (batch_size - rest, batch_size - rest + count()) if size]
        raise Refused(
            f"--batch-size={batch_size}: {count()} processes cannot share it evenly; give "
            f"--batch-size={' or '.join(map(str, fitting))}, or start another number of processes"
        )
