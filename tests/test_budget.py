"""How far a run is and how fast it learns there, by hand."""

import pytest
from gan.budget import Budget, pace

from config import Config


def test_the_first_limit_counts() -> None:
    budget = Budget(Config(max_epoch=2, max_images=1000, max_minutes=1.0, batch_size=10), 30)
    assert budget.fraction(300, 0.0) == pytest.approx(0.5)  # 2 epochs of 300 come before 1,000
    assert budget.fraction(300, 45.0) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("step", "fraction", "rate"),
    [
        (0, 0.0, 0.01),  # 1 of 100 steps of warm-up
        (49, 0.0, 0.5),
        (99, 0.1, 1.0),
        (500, 0.5, 1.0),
        (750, 0.75, 0.6),  # half-way down from 1 to 0.2
        (1000, 1.0, 0.2),
        (1100, 1.1, 0.2),
    ],
)
def test_pace_by_hand(step: int, fraction: float, rate: float) -> None:
    assert pace(step, fraction, 100, 0.2) == pytest.approx(rate)


def test_without_a_schedule_the_rates_stay() -> None:
    assert {pace(step, step / 9, 0, 1.0) for step in range(10)} == {1.0}
