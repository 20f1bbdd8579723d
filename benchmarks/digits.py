"""Does a conditional run draw the digit it is asked for? A classifier of real digits reads them.

    python benchmarks/digits.py RUN_FOLDER NAME

RUN_FOLDER is where `train --conditional --name=NAME` was run. The classifier (two convolutions)
learns the run's training images in a few epochs; its accuracy on the held-out ones is the ceiling.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import runs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan import data, sample

EACH = 200  # digits drawn of a class


def classifier(images: Tensor, labels: Tensor, classes: int) -> nn.Module:
    """A small convolutional network, trained for 8 epochs on images [N, C, s, s] in [-1, 1]."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(images.shape[1], 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, classes),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(8):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[part]), labels[part]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Whether each is read as its label: [N], 0 or 1."""
    found = [net(part).argmax(1) for part in images.split(500)]
    return (torch.cat(found) == labels).float()


def main(folder: str, name: str) -> None:
    os.chdir(folder)
    nets, config, path = runs.trained({"name": name}, ranks=False)
    images = data.open_images(
        config.data_path, config.img_size, config.channels, Path("data/cache"),
        held_out=config.held_out,
    )  # fmt: skip
    assert images.labels is not None, "not a conditional run"
    real = torch.from_numpy(images.array[:]).float() / 127.5 - 1
    labels = torch.from_numpy(images.labels)
    classes = len(config.labels)
    net = classifier(real[images.train], labels[images.train], classes)
    held = accuracy(net, real[images.held_out], labels[images.held_out]).mean()
    wanted = torch.arange(EACH * classes) % classes
    vectors = sample.Source.of(config)(0, EACH * classes)
    drawn = torch.cat(list(sample.draw(nets.G, vectors, 500, torch.device("cpu"))))
    right = accuracy(net, drawn, wanted)
    each = [
        f"{label} {float(right[wanted == k].mean()):.2f}" for k, label in enumerate(config.labels)
    ]
    print(f"{path}: {len(drawn):,} drawn, {float(right.mean()):.3f} read as what was asked for")
    print(f"by class: {', '.join(each)}; held-out real ones: {float(held):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
