"""One step of training: who is due is updated, on the batch as a whole or in parts."""

import contextlib
import dataclasses

import torch
from torch import Tensor

from gan import distributed, machine
from gan.losses import Batch, Logs, Loss
from gan.state import State, let_learn


def update(state: State, batch: Batch, own: Loss, optimizer: torch.optim.Optimizer) -> Logs:
    """One step down the gradient of the loss `own`, the mean over all processes; its logs too.

    Out of memory, the batch is halved until its parts fit, if `--accumulate=auto` and this is the
    only process; the number of parts is a fact of the run from then on. Otherwise it raises.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            logs = add_gradients(state, batch, own, optimizer)
            break
        except (MemoryError, RuntimeError) as error:
            finer = finer_parts(state, len(batch.real))
            if not finer or not machine.is_out_of_memory(error):
                raise
        # not in the handler: until it ends, the error holds what was computed
        state.facts = dataclasses.replace(state.facts, accumulate=finer)
        batch.fake = batch.fake_given = None
        if state.device.type == "cuda":
            torch.cuda.empty_cache()
    logs = distributed.average_gradients(optimizer, logs)
    optimizer.step()
    return logs


def finer_parts(state: State, size: int) -> int:
    """Into how many parts a batch of `size` images is to be split instead; 0 if it is not."""
    if state.config.accumulate != "auto" or distributed.count() > 1:
        return 0
    twice = 2 * state.facts.accumulate
    return next((n for n in range(twice, size + 1) if size % n == 0), 0)


def add_gradients(
    state: State, batch: Batch, own: Loss, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Add the gradient of the loss `own`, as the mean over the parts of the batch; return its logs.

    In one part, the fakes of a batch are generated once, with a graph if G is due, for both
    updates. In several they are generated for each: no more than a part is ever in memory.
    """
    parts = batch.parts(state.facts.accumulate)
    whole = len(parts) == 1
    let_learn(state.opt_g, state.due.g and (whole or optimizer is state.opt_g))
    logs: dict[str, Tensor] = {}
    fakes: list[Tensor] = []
    for part in parts:
        # bfloat16 has float32's range, so no loss scaling is needed
        mixed = torch.autocast(state.device.type, torch.bfloat16)
        with mixed if state.facts.mixed_precision else contextlib.nullcontext():
            loss, more = own(state.nets, part, state.config)
        (loss if whole else loss / len(parts)).backward()
        if whole:
            return more
        for name, value in more.items():
            logs[name] = logs.get(name, 0) + value / len(parts)
        assert part.fake is not None
        fakes.append(part.fake.detach())
    # for the health signals, which ask whether G was updated
    batch.fake = torch.cat(fakes).requires_grad_(optimizer is state.opt_g)
    return logs


def train_step(state: State, batch: Batch) -> dict[str, Tensor]:
    """Train on one batch: update D if it is due, then G if it is due; return the losses' logs.

    D's weights require no gradients in G's update, which saves a third of D's backward pass.
    """
    config, family, due = state.config, state.family, state.due
    logs: dict[str, Tensor] = {}
    if due.d:
        state.let_d_learn()
        logs |= update(state, batch, family.d_loss, state.opt_d)
        if family.after_d:
            family.after_d(state.nets, config)
    if due.g:
        let_learn(state.opt_d, False)
        logs |= update(state, batch, family.g_loss, state.opt_g)
    state.step += 1
    if state.ema:
        state.ema.update(config.batch_size, state.images)
    return logs
