"""Which net and which formula the losses call, and with what."""

import math

import pytest
import torch
from torch import nn
from wiring import (
    NZ,
    SIDE,
    TASKS,
    Batch,
    Function,
    Nets,
    Tensor,
    both_ways,
    d_calls,
    feed_of,
    flat,
    holes,
    image_set,
    losses_of,
    make_batch,
    make_config,
    mean_score,
    nets_and_batch,
    numbered,
    one_hot,
    one_way,
    pairs_of,
    patch_score,
    pool_calls,
)

# --- classes -------------------------------------------------------------------------------------


def test_d_is_given_the_class_in_its_own_loss() -> None:
    nets, classes = one_way(lambda *_: flat(3), mean_score), one_hot(0, 1)
    d_loss, _ = losses_of("noise", "least-squares")
    loss, _ = d_loss(nets, make_batch(flat(1), torch.zeros(2, NZ), (classes,)), make_config())
    # reals score 1 and 11, fakes 3 and 13: ((0 + 100) / 2 + (9 + 169) / 2) / 2
    assert loss.item() == pytest.approx((50 + 89) / 2)
    assert [torch.equal(y, classes) for _, y in d_calls(nets)[0]] == [True, True]


def test_d_is_given_the_class_in_the_loss_of_g() -> None:
    nets, classes = one_way(lambda *_: flat(3), mean_score), one_hot(0, 1)
    _, g_loss = losses_of("noise", "least-squares")
    loss, _ = g_loss(nets, make_batch(flat(1), torch.zeros(2, NZ), (classes,)), make_config())
    assert loss.item() == pytest.approx((4 + 144) / 2 / 2)  # fakes score 3 and 13, 1 is wanted
    assert [torch.equal(y, classes) for _, y in d_calls(nets)[0]] == [True]


# --- augmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_d_sees_reals_and_fakes_augmented(task: str) -> None:
    torch.manual_seed(0)
    nets, batch = nets_and_batch(task, 1, 3, augment=1.0)
    losses_of(task, "hinge")[0](nets, batch, make_config())
    for calls in d_calls(nets):
        assert [x[:, -1].max().item() for x, *_ in calls] == [1, 3]  # the real, then the fake
        assert [holes(x).all().item() for x, *_ in calls] == [True, True]


@pytest.mark.parametrize("task", TASKS)
def test_d_sees_fakes_augmented_in_the_loss_of_g(task: str) -> None:
    torch.manual_seed(0)
    nets, batch = nets_and_batch(task, 1, 3, augment=1.0)
    losses_of(task, "hinge")[1](nets, batch, make_config())
    for ((x, *_),) in d_calls(nets):
        assert x[:, -1].max() == 3
        assert holes(x).all()


@pytest.mark.parametrize("task", TASKS)
def test_the_probability_of_augmentation_is_that_of_the_batch(task: str) -> None:
    torch.manual_seed(0)
    for share in (0.0, 0.3):
        nets, batch = nets_and_batch(task, 1, 3, 2000, augment=share)
        for loss in losses_of(task, "hinge"):
            loss(nets, batch, make_config())
        for calls in d_calls(nets):
            for x, *_ in calls:
                assert holes(x).float().mean() == pytest.approx(share, abs=0.05)  # 5 deviations


@pytest.mark.parametrize("task", TASKS)
def test_the_probability_of_augmentation_is_that_of_the_config(task: str) -> None:
    data = image_set(numbered(100)) if task == "noise" else pairs_of(100)
    for share in (0.0, 0.25, 0.8):
        batch = feed_of(task, make_config(augment=share, batch_size=100), data).batch(0)
        nets, _ = nets_and_batch(task, 1, 3, 100)
        losses_of(task, "hinge")[0](nets, batch, make_config())
        for calls in d_calls(nets):
            for x, *_ in calls:
                assert holes(x).float().mean() == pytest.approx(share, abs=0.18)  # 4 deviations


def test_both_pictures_of_a_pair_are_augmented_alike() -> None:
    torch.manual_seed(0)
    given = torch.arange(1.0, 65.0).view(1, 1, SIDE, SIDE).repeat(16, 1, 1, 1)
    batch = make_batch(given + 100, given, augment=0.7)
    nets = one_way(lambda x: x + 200, patch_score)
    for loss in losses_of("paired", "hinge"):
        loss(nets, batch, make_config())
    for (x,), offset in zip(d_calls(nets)[0], (100, 200, 200), strict=True):
        kept = x[:, 0] != 0
        assert torch.equal(kept, x[:, 1] != 0)
        assert torch.equal(x[:, 1][kept], x[:, 0][kept] + offset)
        assert not torch.equal(x[:, :1], given)


# --- games ---------------------------------------------------------------------------------------

OF_GAMES = {  # D's and G's loss where reals score 0.5 and fakes -2
    "logistic": (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-2)), math.log1p(math.exp(2))),
    "hinge": (0.5 + 0, 2.0),
    "least-squares": ((0.25 + 4) / 2, 9 / 2),
    "critic": (-2 - 0.5, 2.0),
    "relativistic": (math.log1p(math.exp(-2.5)), math.log1p(math.exp(2.5))),
}


@pytest.mark.parametrize("asked", ["", *OF_GAMES])
@pytest.mark.parametrize("task", TASKS)
def test_the_game_is_that_of_the_loss_flag_else_the_own(task: str, asked: str) -> None:
    """Least squares have halves in games of noise, and in others only with `half_squares`."""
    own = "least-squares" if asked != "least-squares" else "logistic"
    expected_d, expected_g = OF_GAMES[asked or own]
    for half in (False, True):
        nets, batch = nets_and_batch(task, 0.5, -2)
        config = make_config(loss=asked, l1=0.0, cycle=0.0, half_squares=half)
        d, g = (loss(nets, batch, config)[0].item() for loss in losses_of(task, own))
        whole = 2 if task != "noise" and (asked or own) == "least-squares" and not half else 1
        # pix2pix halves D's loss; a cycle halves it too but has two, and two of G's
        assert d == pytest.approx(whole * expected_d / (2 if task == "paired" else 1))
        assert g == pytest.approx(whole * expected_g * (2 if task == "unpaired" else 1))


def test_the_label_of_fakes_takes_from_the_logistic_loss_of_d() -> None:
    nets, batch = nets_and_batch("noise", 0, math.log(3))
    d_loss, g_loss = losses_of("noise", "logistic")
    for label in (0.0, 0.25, 1.0):
        # softplus(0) of the real, softplus(log 3) - label * log 3 of the fake
        expected = math.log(2) + math.log(4) - label * math.log(3)
        assert d_loss(nets, batch, make_config(fake_label=label))[0].item() == pytest.approx(
            expected
        )
        assert g_loss(nets, batch, make_config(fake_label=label))[0].item() == pytest.approx(
            math.log(4 / 3)
        )


@pytest.mark.parametrize("task", ["noise", "paired"])
def test_the_loss_of_d_has_no_gradient_for_g_and_that_of_g_has(task: str) -> None:
    weight = torch.ones(1, requires_grad=True)
    batch = make_batch(flat(1), flat(1))
    D = nn.Parameter(torch.ones(1))
    nets = one_way(lambda x: x * weight, lambda x: D * patch_score(x)[:, 0, 0])
    d_loss, g_loss = losses_of(task, "critic")
    d_loss(nets, batch, make_config())[0].backward()
    assert weight.grad is None
    g_loss(nets, batch, make_config(l1=0.0))[0].backward()
    assert weight.grad is not None
    assert weight.grad.item() == -1


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_logged_by_their_names(task: str) -> None:
    nets, batch = nets_and_batch(task, 0.5, -2)
    d_loss, g_loss = losses_of(task, "critic")
    loss, logs = d_loss(nets, batch, make_config())
    for name in [" A", " B"] if task == "unpaired" else [""]:
        _, squares = losses_of(task, "least-squares")[0](nets, batch, make_config())
        for shown in (logs, squares):  # neither's scores are logits
            assert shown[f"D(x){name}"].item() == 0.5
            assert shown[f"D(G(z)){name}"].item() == -2
    assert logs["pair_auc"].item() == 1
    assert logs["loss_d"].item() == loss.item()
    assert g_loss(nets, batch, make_config())[1]["loss_g"].item() == (
        4 if task == "unpaired" else 2
    )


def test_a_relativistic_g_compares_with_reals_that_are_augmented_and_of_its_classes() -> None:
    torch.manual_seed(0)
    nets, classes = one_way(lambda *_: flat(3), mean_score), one_hot(0, 1)
    batch = make_batch(flat(1), torch.zeros(2, NZ), (classes,), augment=1.0)
    losses_of("noise", "relativistic")[1](nets, batch, make_config())
    ((real, real_classes), (fake, fake_classes)) = d_calls(nets)[0]
    assert [x.max().item() for x in (real, fake)] == [1, 3]
    assert [holes(x).all().item() for x in (real, fake)] == [True, True]
    assert torch.equal(real_classes, classes)
    assert torch.equal(fake_classes, classes)


def test_a_relativistic_loss_compares_the_scores_of_one_real_and_one_fake() -> None:
    values = torch.tensor([0.0, 4.0]).view(2, 1, 1, 1).expand(2, 1, SIDE, SIDE)
    nets = one_way(lambda *_: values + 1, mean_score)
    d_loss, g_loss = losses_of("noise", "relativistic")
    batch = make_batch(values, torch.zeros(2, NZ))  # each fake scores 1 more than its real
    assert d_loss(nets, batch, make_config())[0].item() == pytest.approx(math.log1p(math.e))
    assert g_loss(nets, batch, make_config())[0].item() == pytest.approx(math.log1p(1 / math.e))


def test_a_relativistic_g_has_the_gradient_of_its_fakes_alone() -> None:
    weight = torch.ones(1, requires_grad=True)
    slope = torch.ones(1, requires_grad=True)
    nets = one_way(lambda x: x * weight, lambda x: slope * mean_score(x))
    loss, _ = losses_of("noise", "relativistic")[1](
        nets, make_batch(flat(1), flat(1)), make_config()
    )
    loss.backward()
    # softplus(real - fake) has the slope -1/2 where they are equal
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(-0.5)
    assert slope.grad is not None
    assert slope.grad.item() == pytest.approx(-0.5)  # 0 if the real's score had one too


# --- penalties -----------------------------------------------------------------------------


def sloped(x: Tensor, *classes: Tensor) -> Tensor:
    """A score whose gradient has the norm 1 without a class, 0.5 in class 0 and 3 in class 1."""
    slope = torch.tensor([0.5, 3.0])[classes[0].argmax(1)] if classes else 1.0
    return slope * x.flatten(1).sum(1) / SIDE  # 64 pixels of 1 / 8: a norm of 1


def penalised(
    classes: Tensor, weight: float, penalties: tuple[str, ...] = ("gradient",)
) -> tuple[float, float]:
    """What the penalties add to D's loss, and their log."""
    nets = one_way(lambda *_: flat(0), sloped)
    batch = make_batch(flat(0), torch.zeros(2, NZ), (classes,))
    d_loss, _ = losses_of("noise", "critic", penalties)
    loss, logs = d_loss(nets, batch, make_config(penalty=weight))
    return loss.item(), logs["penalty"].item()


def test_the_penalty_has_two_sides_and_knows_the_class() -> None:
    # (0.5 - 1)^2 in class 0, (3 - 1)^2 in class 1
    assert penalised(one_hot(0, 1)[[0, 0]], 1.0) == pytest.approx((0.25, 0.25))
    assert penalised(one_hot(0, 1), 1.0) == pytest.approx(((0.25 + 4) / 2,) * 2)


def test_the_penalty_is_weighed_by_its_flag() -> None:
    assert penalised(one_hot(0, 1), 7.0) == pytest.approx((7 * 2.125, 2.125))


def test_the_penalty_is_taken_between_what_d_sees_of_a_real_and_of_a_fake() -> None:
    torch.manual_seed(0)
    nets, batch = nets_and_batch("noise", 1, 3, 16, augment=1.0)
    losses_of("noise", "critic", penalties=("gradient",))[0](nets, batch, make_config())
    (real,), (fake,), (x,) = d_calls(nets)[0]
    differ = real != fake
    for i in range(16):
        shares = ((x[i] - fake[i]) / (real[i] - fake[i]))[differ[i]]
        assert 0 <= float(shares.min()) <= float(shares.max()) <= 1
        assert float(shares.max() - shares.min()) < 1e-4  # one share of the real for an image
    assert torch.equal(x[~differ], real[~differ])
    assert (~differ).any()  # holes in both


def test_r1_and_r2_are_half_the_squared_norm_and_know_the_class() -> None:
    half = (0.5**2 + 3**2) / 2 / 2  # the mean over the classes, halved
    for names in (("r1",), ("r2",)):
        assert penalised(one_hot(0, 1), 7.0, names) == pytest.approx((7 * half, half))
    assert penalised(one_hot(0, 1), 7.0, ("r1", "r2")) == pytest.approx((14 * half, 2 * half))


@pytest.mark.parametrize(("name", "where"), [("r1", 0), ("r2", 1)])
def test_r1_is_taken_at_the_reals_that_d_sees_and_r2_at_the_fakes(name: str, where: int) -> None:
    torch.manual_seed(0)
    nets, batch = nets_and_batch("noise", 1, 3, augment=1.0)
    losses_of("noise", "critic", (name,))[0](nets, batch, make_config())
    *seen, (x,) = d_calls(nets)[0]
    assert torch.equal(x, seen[where][0])
    assert not torch.equal(seen[0][0], seen[1][0])


@pytest.mark.parametrize("d_every", [1, 2])
def test_a_lazy_penalty_comes_in_every_so_many_updates_of_d_and_weighs_as_much_more(
    d_every: int,
) -> None:
    config = make_config(penalty=7.0, penalty_every=4, d_every=d_every)
    losses = []
    for update in range(6):
        nets = one_way(lambda *_: flat(0), sloped)
        batch = make_batch(flat(0), torch.zeros(2, NZ), (one_hot(0, 1),), step=update * d_every)
        loss, logs = losses_of("noise", "critic", ("r1",))[0](nets, batch, config)
        losses.append(loss.item())
        assert ("penalty" in logs) == (update % 4 == 0)
    term = 7 * 4 * (0.5**2 + 3**2) / 4
    assert losses == pytest.approx([term, 0, 0, 0, term, 0])


# --- pix2pix -------------------------------------------------------------------------------------


def test_d_of_pix2pix_sees_the_given_picture_first() -> None:
    nets, batch = one_way(lambda x: x * 0 + 3, patch_score), make_batch(flat(2), flat(1))
    for loss in losses_of("paired", "critic"):
        loss(nets, batch, make_config())
    seen = [x[0, :, 0, 0].tolist() for (x,) in d_calls(nets)[0]]
    assert seen == [[1, 2], [1, 3], [1, 3]]  # given and wanted, given and fake, and for G


def test_the_loss_of_pix2pix_by_hand() -> None:
    nets, batch = one_way(lambda x: x * 0 - 3, patch_score), make_batch(flat(2), flat(1))
    d_loss, g_loss = losses_of("paired", "critic")
    assert d_loss(nets, batch, make_config())[0].item() == (-3 - 2) / 2
    for weight in (0.0, 7.0):
        loss, logs = g_loss(nets, batch, make_config(l1=weight))
        assert loss.item() == 3 + weight * 5  # -D(fake) + weight |fake - wanted|
        assert (logs["loss_g"].item(), logs["l1"].item()) == (3, 5)


# --- CycleGAN ------------------------------------------------------------------------------------


def cycle_of_1_and_7(pools: list[Function] | None = None) -> tuple[Nets, Batch]:
    """A is 1, B is 7; there 2 x, back x + 3: fakes of B are 2, of A 10; D of A scores tenfold."""
    Ds: list[Function] = [lambda x: x, lambda x: 10 * x]
    nets = both_ways(lambda x: 2 * x, lambda x: x + 3, Ds, pools or [lambda x: x] * 2)
    return nets, make_batch(flat(7), flat(1))


def first_pixels(calls: list[tuple[Tensor, ...]]) -> list[float]:
    return [images[0, 0, 0, 0].item() for (images,) in calls]


def test_each_d_of_a_cycle_judges_its_own_side_and_is_halved() -> None:
    nets, batch = cycle_of_1_and_7()
    loss, _ = losses_of("unpaired", "critic")[0](nets, batch, make_config())
    assert [[x[0, 0, 0, 0].item() for (x,) in calls] for calls in d_calls(nets)] == [
        [7, 2],
        [1, 10],
    ]
    assert loss.item() == (2 - 7) / 2 + (100 - 10) / 2


def test_d_of_a_cycle_sees_what_its_pool_makes_of_the_fakes_and_g_does_not() -> None:
    nets, batch = cycle_of_1_and_7([lambda x: x + 50, lambda x: x + 60])
    for loss in losses_of("unpaired", "critic"):
        loss(nets, batch, make_config())
    seen = [first_pixels(calls) for calls in d_calls(nets)]
    assert seen == [[7, 52, 2], [1, 70, 10]]  # real, out of the pool, and for G
    assert [first_pixels(calls) for calls in pool_calls(nets)] == [[2], [10]]


def test_the_loss_of_a_cycle_by_hand() -> None:
    nets, batch = cycle_of_1_and_7()
    _, g_loss = losses_of("unpaired", "critic")
    # back(there(1)) = 5 is 4 from 1, there(back(7)) = 20 is 13 from 7
    loss, logs = g_loss(nets, batch, make_config(cycle=3.0))
    assert (logs["loss_g"].item(), logs["cycle"].item()) == (-2 - 100, 4 + 13)
    assert loss.item() == -102 + 3 * 17
    # there(7) = 14 is 7 from 7, back(1) = 4 is 3 from 1
    loss, logs = g_loss(nets, batch, make_config(cycle=3.0, identity=0.25))
    assert logs["identity"].item() == 7 + 3
    assert loss.item() == -102 + 3 * 17 + 3 * 0.25 * 10
