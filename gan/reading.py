"""What the loop reads after a step for the health checks: signals that the losses do not log."""

from gan import distributed, health
from gan.feed import Feed
from gan.losses import Batch
from gan.state import State


def take_reading(state: State, batch: Batch, feed: Feed, look_at_held_out: bool) -> health.Reading:
    """The health signals that the losses do not log, after the step on `batch`."""
    reading = health.Reading(state.step, state.meters.all_finite())
    if not reading.finite or batch.fake is None:
        return reading
    fake = batch.fake.detach()
    several = len(fake) > 1
    if several:
        distance = health.mean_pairwise_distance
        reading.diversity = float(distance(fake) / distance(batch.real).clamp(min=1e-6))
    if batch.fake.requires_grad:  # G was updated with it
        reading.gradient = float(health.gradient_norm(state.nets.G))
    if several and look_at_held_out and (held_out := feed.held_out()) is not None:
        real, fakes = ((images, *batch.condition) for images in (batch.real, fake))
        reading.gap = health.memory_gap(state.nets.D, real, held_out, fakes)
    reading.diversity, reading.gap = distributed.average([reading.diversity, reading.gap])
    return reading
