"""Every network's answer to fixed weights and inputs.

Weights come from a formula, so that a net's output is a number that depends on each layer, its
place, stride, padding, slope, norm and bias. The numbers in `FROZEN` were computed once, in double
precision; whoever changes a network on purpose prints them anew by running this file.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan.translation import Level, PatchD, ResNetBlock, ResNetG, ThereAndBack, UNet
from models import MlpD, MlpG, ModernD, ModernG, ModulatedG, NetD, NetG, project

CLASSES = 3


# Frozen answers


def wave(count: int, start: int = 0, rate: float = 0.7) -> Tensor:
    """`count` numbers in -1..1 without a pattern that a kernel could see: sin(rate k^2)."""
    k = torch.arange(start, start + count, dtype=torch.double)
    return torch.sin(rate * k * k)


@torch.no_grad()
def fill(net: nn.Module) -> nn.Module:
    """Weights and statistics by formula, in the order of their names; returned in double."""
    net, start = net.double(), 0
    for name, value in sorted(net.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        numbers = wave(value.numel(), start).view(value.shape)
        start += value.numel()
        if name.endswith("running_var"):
            numbers = 1 + 0.5 * numbers
        elif value.ndim > 1:
            numbers = 2 * numbers / (value.numel() / len(value)) ** 0.5
        elif name.endswith("weight"):
            numbers = 1 + 0.2 * numbers
        else:
            numbers = 0.3 * numbers
        value.copy_(numbers)
    return net


def pictures(channels: int, height: int, width: int = 0) -> Tensor:
    shape = (4, channels, height, width or height)
    return 0.9 * wave(math.prod(shape), rate=0.37).view(shape)


def noise(nz: int) -> Tensor:
    return 1.4 * wave(4 * nz, rate=0.37).view(4, nz)


def one_hot() -> Tensor:
    return torch.eye(CLASSES, dtype=torch.double)[[0, 1, 2, 1]]


@torch.no_grad()
def answer(net: nn.Module, run: Callable[..., Tensor], *inputs: Tensor) -> list[list[float]]:
    """[parameters], then mean, std and four values of the output in training and in eval mode."""
    fill(net)
    seen = [[float(sum(p.numel() for p in net.parameters()))]]
    for mode in (True, False):  # after a step in training mode, whose statistics eval has
        out = run(net.train(mode), *(x.clone() for x in inputs))
        values = [out.flatten()[int(share * out.numel())] for share in (0.13, 0.37, 0.62, 0.88)]
        seen.append([round(float(v), 5) for v in (out.mean(), out.std(), *values)])
    return seen


def call(net: nn.Module, *inputs: Tensor) -> Tensor:
    return net(*inputs)


def way_back(net: Any, images: Tensor) -> Tensor:
    return net.back(images)


def level(norm: str) -> Level:
    return Level(2, 3, norm, Level(3, 4, norm, None))


def there_and_back() -> ThereAndBack:
    return ThereAndBack(ResNetG(1, 3, 28, 1), ResNetG(3, 1, 28, 1))


Case = tuple[Callable[[], nn.Module], Callable[..., Tensor], Callable[[], tuple[Tensor, ...]]]
# fmt: off
CASES: dict[str, Case] = {
    # sides that halve evenly, odd ones, and a first stride of 3
    "NetG": (lambda: NetG(5, 2, 28, 1), call, lambda: (noise(5),)),
    "NetG-classes": (lambda: NetG(5, 2, 48, 3, 3), call, lambda: (noise(5), one_hot())),
    "NetG-odd": (lambda: NetG(5, 2, 29, 3), call, lambda: (noise(5),)),
    "NetG-96": (lambda: NetG(4, 2, 96, 1), call, lambda: (noise(4),)),
    "NetD": (lambda: NetD(2, 28, 3), call, lambda: (pictures(3, 28),)),
    "NetD-classes": (lambda: NetD(2, 28, 3, 3), call, lambda: (pictures(3, 28), one_hot())),
    "NetD-none": (lambda: NetD(2, 48, 1, 3, "none"), call, lambda: (pictures(1, 48), one_hot())),
    "NetD-spectral": (
        lambda: NetD(2, 28, 3, 3, "spectral"), call, lambda: (pictures(3, 28), one_hot()),
    ),
    "NetD-96": (lambda: NetD(1, 96, 1), call, lambda: (pictures(1, 96),)),
    "MlpG": (lambda: MlpG(5, (6, 7), 28, 1), call, lambda: (noise(5),)),
    "MlpG-classes": (lambda: MlpG(5, (6,), 28, 1, 3), call, lambda: (noise(5), one_hot())),
    "MlpD": (lambda: MlpD((7, 6), 28, 1), call, lambda: (pictures(1, 28),)),
    "MlpD-classes": (lambda: MlpD((7,), 28, 1, 3), call, lambda: (pictures(1, 28), one_hot())),
    "ModernG": (lambda: ModernG(5, 2, 28, 3), call, lambda: (noise(5),)),
    "ModernG-odd": (lambda: ModernG(5, 2, 29, 1, 3), call, lambda: (noise(5), one_hot())),
    "ModernD": (lambda: ModernD(2, 36, 3), call, lambda: (pictures(3, 36),)),
    "ModernD-odd": (lambda: ModernD(2, 29, 1, 3), call, lambda: (pictures(1, 29), one_hot())),
    "ModulatedG": (lambda: ModulatedG(5, 2, 28, 3), call, lambda: (noise(5),)),
    "ModulatedG-odd": (lambda: ModulatedG(5, 2, 29, 1, 3), call, lambda: (noise(5), one_hot())),
    "ModernD-deviation": (
        lambda: ModernD(2, 36, 3, deviation=True), call, lambda: (pictures(3, 36),),
    ),
    "UNet": (lambda: UNet(3, 2, 28, 2), call, lambda: (pictures(3, 28),)),
    "UNet-instance": (lambda: UNet(1, 3, 28, 2, "instance"), call, lambda: (pictures(1, 28),)),
    "UNet-odd": (lambda: UNet(1, 1, 28, 1), call, lambda: (pictures(1, 29, 38),)),
    "UNet-padded": (lambda: UNet(1, 1, 28, 1), call, lambda: (pictures(1, 15, 18),)),
    "UNet-64": (lambda: UNet(1, 1, 64, 1, dropout=False), call, lambda: (pictures(1, 64),)),
    "Level-innermost": (lambda: Level(2, 3, "batch", None), call, lambda: (pictures(2, 6),)),
    "Level": (lambda: level("batch"), call, lambda: (pictures(2, 9, 8),)),
    "Level-instance": (lambda: level("instance"), call, lambda: (pictures(2, 12),)),
    "ResNetG": (lambda: ResNetG(3, 1, 28, 2), call, lambda: (pictures(3, 28),)),
    "ResNetG-batch": (lambda: ResNetG(1, 2, 28, 1, "batch"), call, lambda: (pictures(1, 29, 30),)),
    "ResNetG-256": (lambda: ResNetG(1, 1, 256, 1), call, lambda: (pictures(1, 28),)),
    "ResNetBlock": (lambda: ResNetBlock(3, "instance", False), call, lambda: (pictures(3, 8),)),
    "ResNetBlock-batch": (lambda: ResNetBlock(3, "batch", False), call, lambda: (pictures(3, 8),)),
    "PatchD": (lambda: PatchD(4, 2), call, lambda: (pictures(4, 32),)),
    "PatchD-batch": (lambda: PatchD(3, 2, norm="batch"), call, lambda: (pictures(3, 28),)),
    "PatchD-spectral": (lambda: PatchD(3, 2, spectral=True), call, lambda: (pictures(3, 28),)),
    "PatchD-2-layers": (lambda: PatchD(1, 1, 2), call, lambda: (pictures(1, 28),)),
    "ThereAndBack": (there_and_back, call, lambda: (pictures(1, 28),)),
    "ThereAndBack-back": (there_and_back, way_back, lambda: (pictures(3, 28),)),
}
FROZEN: dict[str, list[list[float]]] = {
    "NetG": [[1153], [-0.18924, 0.47946, -0.56148, 0.65364, -0.17579, -0.26645],
        [-0.00714, 0.10649, -0.01063, 0.06054, -0.01757, -0.10341]],
    "NetG-classes": [[3070], [-0.03039, 0.32208, 0.02721, -0.1121, -0.01107, -0.12764],
        [-0.0049, 0.05157, 0.01755, -0.02093, -0.00948, 0.03403]],
    "NetG-odd": [[1219], [-0.0225, 0.39179, -0.58443, -0.65458, -0.36742, -0.7646],
        [-0.01018, 0.20111, -0.30891, -0.33779, -0.2769, -0.34757]],
    "NetG-96": [[3826], [0.12599, 0.32194, 0.0, 0.0, 0.0, 0.01678],
        [0.07585, 0.18383, 0.0, -0.05271, -0.02082, 0.0]],
    "NetD": [[429], [-0.33081, 0.58871, -1.01517, -0.188, -0.50969, 0.3896],
        [-0.21942, 0.32373, -0.51533, -0.05756, -0.46195, 0.15716]],
    "NetD-classes": [[1020], [0.12513, 0.28754, 0.55107, -0.07809, 0.02977, -0.00221],
        [0.10374, 0.28399, 0.45229, 0.06824, -0.24014, 0.13457]],
    "NetD-none": [[1842], [0.74451, 0.51735, 0.85506, 1.3332, 0.71088, 0.0789],
        [0.74451, 0.51735, 0.85506, 1.3332, 0.71088, 0.0789]],
    "NetD-spectral": [[1018], [-0.40053, 0.58853, -0.01728, -0.05875, -1.26929, -0.2568],
        [-0.40053, 0.58853, -0.01728, -0.05875, -1.26929, -0.2568]],
    "NetD-96": [[854], [-0.82083, 0.69804, -1.72872, -0.9676, -0.12057, -0.46642],
        [0.08531, 0.2511, -0.20129, 0.41008, 0.0863, 0.04615]],
    "MlpG": [[6357], [0.0082, 0.6224, -0.20737, -0.95544, -0.92546, 0.56569],
        [0.0082, 0.6224, -0.20737, -0.95544, -0.92546, 0.56569]],
    "MlpG-classes": [[5542], [-0.00376, 0.64429, -0.8632, -0.46781, 0.22329, -0.71863],
        [-0.00376, 0.64429, -0.8632, -0.46781, 0.22329, -0.71863]],
    "MlpD": [[5550], [1.05684, 0.63528, 0.67238, 1.9881, 0.63147, 0.9354],
        [1.05684, 0.63528, 0.67238, 1.9881, 0.63147, 0.9354]],
    "MlpD-classes": [[5527], [0.36026, 1.42157, -0.21439, -1.04746, 2.29637, 0.40651],
        [0.36026, 1.42157, -0.21439, -1.04746, 2.29637, 0.40651]],
    "ModernG": [[1224], [-0.03771, 0.59758, 0.48554, 0.99465, 0.80689, 0.90797],
        [-0.02511, 0.68001, 0.62681, 0.99955, 0.91097, 0.98067]],
    "ModernG-odd": [[1792], [-0.268, 0.50048, 0.12736, -0.21665, -0.08321, -0.70944],
        [0.20239, 0.34884, 0.54542, 0.632, 0.31767, 0.33888]],
    "ModernD": [[1038], [-0.42842, 0.10996, -0.54838, -0.29085, -0.3998, -0.47464],
        [-0.42842, 0.10996, -0.54838, -0.29085, -0.3998, -0.47464]],
    "ModernD-odd": [[849], [0.03792, 0.3575, -0.38685, 0.20254, 0.43449, -0.09852],
        [0.03792, 0.3575, -0.38685, 0.20254, 0.43449, -0.09852]],
    "ModulatedG": [[20808], [-0.03041, 0.84719, 0.94205, -0.47911, 0.65176, 0.98483],
        [-0.01861, 0.92264, 0.99121, 0.53731, -0.75127, 0.99163]],
    "ModulatedG-odd": [[21760], [-0.32155, 0.67914, -0.99876, 0.18216, -0.997, 0.5662],
        [-0.35894, 0.68967, -0.99952, 0.06541, -0.99845, 0.50359]],
    "ModernD-deviation": [[1092], [-0.35775, 0.11082, -0.46679, -0.25924, -0.43964, -0.26533],
        [-0.36809, 0.11078, -0.47715, -0.26974, -0.4499, -0.27559]],
    "UNet": [[6294], [0.21589, 0.48782, -0.09271, -0.34201, -0.60069, 0.53032],
        [0.2246, 0.42501, 0.09074, -0.2493, -0.53685, 0.66881]],
    "UNet-instance": [[6287], [-0.07957, 0.4376, -0.23526, 0.56202, -0.10233, 0.50757],
        [-0.07957, 0.4376, -0.23526, 0.56202, -0.10233, 0.50757]],
    "UNet-odd": [[1579], [-0.12885, 0.45947, 0.08787, -0.40834, -0.91818, 0.88214],
        [-0.08134, 0.5154, 0.38635, -0.56731, -0.94994, 0.90917]],
    "UNet-padded": [[1579], [-0.15114, 0.41388, -0.91628, 0.40476, 0.1447, -0.56104],
        [-0.12023, 0.45703, -0.96817, 0.28033, 0.35994, -0.89133]],
    "UNet-64": [[7275], [-0.08463, 0.43438, 0.53651, -0.75882, 0.06984, -0.06287],
        [-0.10365, 0.40419, 0.34826, -0.19961, 0.39437, -0.30291]],
    "Level-innermost": [[196], [-0.06902, 0.76468, 0.56301, -0.89785, -0.75754, 0.33314],
        [-0.13001, 0.55672, 0.18446, -0.89785, -0.75754, 0.09161]],
    "Level": [[688], [0.0842, 0.86411, -1.04676, -0.24595, -0.68218, -0.2992],
        [0.03855, 0.52099, 0.09531, -0.24595, -0.68218, 0.18646]],
    "Level-instance": [[684], [-0.01341, 0.84204, 0.29736, -0.80499, -0.26534, 0.06212],
        [-0.01341, 0.84204, 0.29736, -0.80499, -0.26534, 0.06212]],
    "ResNetG": [[8141], [0.43124, 0.50356, -0.11072, 0.9998, 0.92882, 0.3221],
        [0.43124, 0.50356, -0.11072, 0.9998, 0.92882, 0.3221]],
    "ResNetG-batch": [[2173], [0.15927, 0.51666, 0.32712, 0.34184, 0.35545, -0.07366],
        [0.21258, 0.92907, 0.00789, 0.92513, -0.1561, -0.98729]],
    "ResNetG-256": [[2953], [-0.17715, 0.55943, -0.36486, -0.18391, -0.95667, 0.33314],
        [-0.17715, 0.55943, -0.36486, -0.18391, -0.95667, 0.33314]],
    "ResNetBlock": [[168], [-0.0145, 1.22206, 0.68219, -1.85917, 0.45622, -0.32978],
        [-0.0145, 1.22206, 0.68219, -1.85917, 0.45622, -0.32978]],
    "ResNetBlock-batch": [[174], [-0.0867, 1.12156, 0.93955, -1.30866, -0.67377, -0.57081],
        [-0.11698, 1.10211, 0.91246, -1.27377, -1.21969, -0.40349]],
    "PatchD": [[3103], [-0.37657, 0.68788, -0.38989, -0.91633, 0.46831, -0.14734],
        [-0.37657, 0.68788, -0.38989, -0.91633, 0.46831, -0.14734]],
    "PatchD-batch": [[3099], [-0.88971, 0.56086, -0.66958, -0.39827, -1.69302, -0.79797],
        [-0.44862, 0.3175, -0.40767, -0.02981, -0.7776, -0.5794]],
    "PatchD-spectral": [[3071], [-0.12473, 0.05362, -0.05573, -0.12996, -0.18665, -0.12659],
        [-0.12473, 0.05362, -0.05573, -0.12996, -0.18665, -0.12659]],
    "PatchD-2-layers": [[248], [-0.3545, 0.77629, 1.0015, -0.00694, -0.24063, -2.07871],
        [-0.3545, 0.77629, 1.0015, -0.00694, -0.24063, -2.07871]],
    "ThereAndBack": [[4328], [-0.15527, 0.64573, 0.56429, -0.29274, 0.43721, -0.11676],
        [-0.15527, 0.64573, 0.56429, -0.29274, 0.43721, -0.11676]],
    "ThereAndBack-back": [[4328], [0.00096, 0.54388, -0.06205, 0.67205, 0.40224, -0.97395],
        [0.00096, 0.54388, -0.06205, 0.67205, 0.40224, -0.97395]],
}
# fmt: on


@pytest.mark.parametrize("name", CASES)
def test_a_net_answers_as_it_did(name: str) -> None:
    make, run, inputs = CASES[name]
    seen, expected = answer(make(), run, *inputs()), FROZEN[name]
    assert seen[0] == expected[0]  # parameters
    for ours, frozen in zip(seen[1:], expected[1:], strict=True):
        assert ours == pytest.approx(frozen, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["NetG", "MlpG", "ModernG", "ModulatedG"])
def test_a_class_is_given_to_g_after_the_noise(name: str) -> None:
    """So weights fit that were trained when G was fed one vector, [noise, one-hot class]."""
    make: dict[str, Callable[[int, int], nn.Module]] = {
        "NetG": lambda nz, classes: NetG(nz, 2, 28, 1, classes),
        "MlpG": lambda nz, classes: MlpG(nz, (6,), 28, 1, classes),
        "ModernG": lambda nz, classes: ModernG(nz, 2, 28, 1, classes),
        "ModulatedG": lambda nz, classes: ModulatedG(nz, 2, 28, 1, classes),
    }
    one_vector, with_class = fill(make[name](5 + CLASSES, 0)), make[name](5, CLASSES).double()
    with_class.load_state_dict(one_vector.state_dict())
    expected = one_vector(torch.cat([noise(5), one_hot()], 1))
    assert torch.equal(with_class(noise(5), one_hot()), expected)
    assert not torch.equal(with_class(noise(5), one_hot().roll(1, 1)), expected)


def test_the_score_with_a_class() -> None:
    """psi + y V h: the first number, plus that of the class asked for."""
    scores = torch.tensor([[1.0, 10, 20, 30], [2, 40, 50, 60]])
    wanted = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    assert project(scores, wanted).tolist() == [21, 62]
    assert project(scores[:, :1]).tolist() == [1, 2]
    assert project(scores[:, :, None, None], wanted).tolist() == [21, 62]


def test_dropout_of_a_level_is_last_and_half() -> None:
    """The skip is whole; of the rest half is 0, the other half twice what eval mode gives."""
    torch.manual_seed(0)
    net, x = fill(Level(2, 3, "instance", None, dropout=True)), pictures(2, 32)
    dropped, whole = net(x), net.eval()(x)
    assert torch.equal(dropped[:, :2], x)
    silent = dropped[:, 2:] == 0
    assert float(silent.double().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.allclose(dropped[:, 2:], torch.where(silent, 0.0, 2 * whole[:, 2:]))


def test_dropout_of_the_u_net_is_on_by_itself() -> None:
    """One level at 64 pixels, in training mode alone."""
    net, x = fill(UNet(1, 1, 64, 1)), pictures(1, 64)
    assert not torch.equal(net(x), net(x))
    assert answer(UNet(1, 1, 64, 1), call, x)[0] == FROZEN["UNet-64"][0]
    net.eval()
    assert torch.equal(net(x), net(x))


if __name__ == "__main__":
    for name, (make, run, inputs) in CASES.items():
        (count,), *modes = answer(make(), run, *inputs())
        print(f'    "{name}": [[{count:.0f}], {modes[0]},')
        print(" " * 8 + f"{modes[1]}],")
