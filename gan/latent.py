"""Tools of the latent space: walks between noise vectors, and directions that change faces most."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from config import Config
from gan import fold, sample
from gan.errors import Refused
from gan.modern import modulated
from gan.sample import Inputs, InputSource, NoiseSource

PCA_FACES = 1024  # whose features --by=features analyses
PCA_SIDE = 8  # pixels that these features are pooled to
CANDIDATES = 16  # of the strongest directions, ordered by how much they change the picture
MEASURED_FACES = 16  # faces in which that change is measured
REACH = 3.0  # standard deviations that a direction is measured and shown over, both ways
SECONDS_A_FACE = 2.0  # of a wandering film, until the face is another one
WANDER_INDEX = 2**47  # of the first noise vector that wandering is made of, beyond any face


# ---- walks -------------------------------------------------------------------------------------


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of [nz] and [nz] at `t` [n] in 0..1: [n, nz] (Shoemake 1985).

    Normal noise lies near a sphere of radius sqrt(nz), and G has seen hardly any inside it; the
    straight line between two faces passes there (White 2016, arXiv:1609.04468). Opposite vectors
    have no shortest way on it, and equal ones no angle: both are interpolated in a straight line.
    """
    cosine = torch.dot(start, end) / (start.norm() * end.norm()).clamp(min=1e-12)
    angle = torch.acos(cosine.double().clamp(-1, 1))
    t = t.double()[:, None]
    if math.sin(angle) < 1e-6:
        return ((1 - t) * start + t * end).float()
    weights = torch.sin((1 - t) * angle), torch.sin(t * angle)
    return ((weights[0] * start + weights[1] * end) / torch.sin(angle)).float()


def walk(points: Tensor, frames: int, *, loop: bool, kind: str = "normal") -> Tensor:
    """A walk through `points` [p, nz], `frames` frames from each to the next: [n, nz].

    Open, it ends on the last point: n = (p - 1) * frames + 1. In a loop it goes back to the first
    one, n = p * frames, and its last frame is one step before its first: it repeats without a jump.
    `kind` is that of the noise: uniform noise fills a cube, in which straight lines stay.
    """
    steps = torch.arange(frames) / frames
    ends = torch.cat([points[1:], points[:1]]) if loop else points[1:]
    between = slerp if kind == "normal" else _straight
    parts = [between(a, b, steps) for a, b in zip(points, ends, strict=False)]
    return torch.cat(parts if loop else [*parts, points[-1:]])


def _straight(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(start, end, t[:, None])


def mixing(labels: Tensor, frames: int, *, loop: bool) -> Tensor:
    """The classes of a walk, as shares: one-hot [p, classes] -> [n, classes], n as in `walk`."""
    return walk(labels, frames, loop=loop, kind="uniform")


def wander(seed: int, nz: int, frames: int, seconds: float, kind: str = "normal") -> Tensor:
    """Noise of a smooth film that never rests and repeats without a jump: [frames, nz].

    Each number is a sum of K sines and cosines with normal weights, so that it is N(0, 1) at every
    moment (a Gaussian process on a circle); K grows with the length of the film.
    """
    waves = max(1, round(seconds / SECONDS_A_FACE / 2))
    weights = sample.noise(seed, WANDER_INDEX, 2 * waves, nz).double()
    angle = torch.arange(frames, dtype=torch.float64)[:, None] * (2 * math.pi / frames)
    turns = angle * torch.arange(1, waves + 1)
    found = (turns.cos() @ weights[:waves] + turns.sin() @ weights[waves:]) / math.sqrt(waves)
    return (found if kind == "normal" else 2 * torch.special.ndtr(found) - 1).float()


# ---- directions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Directions:
    """Directions in the noise, the one that changes pictures most first."""

    vectors: Tensor  # [count, nz], each of length 1
    change: Tensor  # [count], mean difference of a byte of the pictures at -REACH and +REACH


def _first_layers(graph: fx.GraphModule, nz: int) -> Tensor:
    """What the layers that are given the noise make of it, all outputs in a row: [outputs, nz].

    With the batch norm after them. There are two if G is modulated: its base, and the mapping.
    """
    modules = dict(graph.named_modules())
    given: set[fx.Node] = set()
    found = []
    for node in graph.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        of_noise = bool(given.intersection(node.all_input_nodes))
        if node.op == "placeholder" or (
            of_noise and (layer is None or isinstance(layer, fold.RESHAPES))
        ):
            given.add(node)
        elif of_noise and isinstance(layer, nn.Linear):
            found.append(layer.weight[:, :nz].detach())
        elif of_noise and isinstance(layer, nn.ConvTranspose2d):
            found.append(layer.weight[:nz].flatten(1).T.detach())
    if not found:
        raise Refused(
            "--by=weights: this generator does not begin with a linear layer; --by=features"
        )
    return torch.cat(found)


def by_weights(G: nn.Module, source: InputSource) -> Tensor:
    """Directions that the first layer stretches most, strongest first: [nz, nz], rows of length 1.

    Eigenvectors of A^T A, with A the weights of the first layer (Shen & Zhou 2021,
    arXiv:2007.06600, eq. 4), here after its batch norm is folded in; where two layers are given
    the noise, A is both, one below the other. A closed form: no face is drawn.
    """
    inputs = source(0, 2)
    weights = _first_layers(fold.folded(G, inputs), inputs[0].shape[1]).double()
    return torch.linalg.eigh(weights.T @ weights).eigenvectors.T.flip(0)


def _way_to_picture(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes that make the picture, without those that only modulate what it is made of."""
    found: set[fx.Node] = set()
    left = [node for node in graph.graph.nodes if node.op == "output"]
    while left:
        node = left.pop()
        found.add(node)
        inputs = node.all_input_nodes
        left += [n for n in (inputs[:1] if node.target is modulated else inputs) if n not in found]
    return found


class _Until(fx.Interpreter):
    """Runs a graph, and keeps what its layer half-way from noise to picture has made."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        acts = (nn.ReLU, nn.LeakyReLU)
        modules, way = dict(graph.named_modules()), _way_to_picture(graph)
        names = [
            node.name
            for node in graph.graph.nodes
            if node.op == "call_module" and isinstance(modules[str(node.target)], acts)
            if node in way
        ]
        if not names:
            raise Refused("--by=features: this generator has no inner layer; --by=weights")
        self.wanted = names[len(names) // 2]
        self.found = torch.empty(0)

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name == self.wanted and isinstance(value, Tensor):
            self.found = value
        return value


@torch.no_grad()
def by_features(G: nn.Module, source: InputSource, count: int = CANDIDATES) -> Tensor:
    """Directions of the noise that lead along the principal components of inner features.

    PCA of the features half-way to the picture, then the noise is regressed on its coordinates
    (Härkönen et al. 2020, arXiv:2004.02546, section 2.2): [count, nz], rows of length 1.
    """
    graph = fold.folded(G, source(0, 2))
    until, rows, noise = _Until(graph), [], []
    for first in range(0, PCA_FACES, 64):
        inputs = source(first, 64)
        until.run(*inputs)
        found = until.found
        if found.dim() == 4 and found.shape[-1] > PCA_SIDE:
            found = nn.functional.adaptive_avg_pool2d(found, PCA_SIDE)
        rows.append(found.flatten(1).double())
        noise.append(inputs[0].double())
    features, z = torch.cat(rows), torch.cat(noise)
    features = features - features.mean(0)
    # the Gram matrix is small, [faces, faces]; its eigenvectors are the components' coordinates
    values, vectors = torch.linalg.eigh(features @ features.T)
    count = min(count, z.shape[1])
    coordinates = vectors.flip(1)[:, :count] * values.flip(0)[:count].clamp(min=0).sqrt()
    slopes = torch.linalg.lstsq(coordinates, z - z.mean(0)).solution  # [count, nz]
    return slopes / slopes.norm(dim=1, keepdim=True).clamp(min=1e-12)


def measured_faces(config: Config, classes: int) -> NoiseSource:
    """The faces in which directions are measured: whatever is drawn, number 2 stays number 2."""
    return NoiseSource.of(replace(config, seed=0), classes)


METHODS = {"weights": by_weights, "features": by_features}


def shifted(inputs: Inputs, vector: Tensor, amount: float) -> Inputs:
    """Inputs whose noise is moved along `vector` [nz]; classes stay as they are."""
    return (inputs[0] + amount * vector, *inputs[1:])


@torch.no_grad()
def directions(
    G: nn.Module, source: InputSource, count: int, method: str, device: torch.device
) -> Directions:
    """The `count` strongest directions by `method`, ordered by how much they change pictures.

    G is on `device`. Each points the way of its largest number, so that signs do not depend on the
    linear algebra library. Raises Refused for a G that the method is not for.
    """
    own = G.eval()
    vectors = METHODS[method](own, source)[: max(count, CANDIDATES)]
    largest = vectors.abs().argmax(1, keepdim=True)
    vectors = (vectors * vectors.gather(1, largest).sign()).float()
    faces = source(0, MEASURED_FACES)
    change = []
    for vector in vectors:
        low, high = (
            sample.draw_uint8(own, shifted(faces, vector, side), MEASURED_FACES, device).float()
            for side in (-REACH, REACH)
        )
        change.append((high - low).abs().mean())
    amounts = torch.stack(change)
    order = amounts.sort(descending=True, stable=True).indices[:count]
    return Directions(vectors[order], amounts[order])


def row_of(
    G: nn.Module, inputs: Inputs, vector: Tensor, amounts: Tensor, device: torch.device
) -> Tensor:
    """One face moved along `vector` by each of `amounts` [n]: uint8 [n, C, H, W]."""
    z = inputs[0][:1] + amounts[:, None] * vector
    classes = (part[:1].expand(len(amounts), -1) for part in inputs[1:])
    return sample.draw_uint8(G, (z, *classes), len(amounts), device)
