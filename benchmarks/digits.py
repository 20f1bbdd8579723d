"""Does a conditional run draw the digit it is asked for? A classifier of real digits reads them.

    python benchmarks/digits.py RUN_FOLDER NAME

RUN_FOLDER is where `train --conditional --name=NAME` was run. The classifier (two convolutions)
learns the run's training images in a few epochs; its accuracy on the held-out ones is the ceiling.
"""

import os
import sys

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from commands import runs
from gan import sample
from gan.feed import to_float
from gan.tasks import open_images

DRAWN_PER_CLASS = 200
EPOCHS, BATCH_SIZE = 8, 64  # of the classifier's training
READ_BATCH_SIZE = 500


def train_classifier(images: Tensor, labels: Tensor, classes: int) -> nn.Module:
    """A small convolutional network, trained on images [N, C, s, s] in -1..1, labels int64 [N]."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(images.shape[1], 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, classes),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def read_correctly(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is read as its label: [N], 0 or 1."""
    found = [net(batch).argmax(1) for batch in images.split(READ_BATCH_SIZE)]
    return (torch.cat(found) == labels).float()


def main(folder: str, name: str) -> None:
    os.chdir(folder)
    run = runs.load_run({"name": name})
    images = open_images(run.config, at_least=1)
    names = run.facts.class_names
    if not names or images.class_indices is None:
        sys.exit(f"{run.source}: not a conditional run")
    real = to_float(images.array[:])
    labels = torch.from_numpy(images.class_indices)
    net = train_classifier(real[images.train], labels[images.train], len(names))
    ceiling = read_correctly(net, real[images.held_out], labels[images.held_out]).mean()
    count = DRAWN_PER_CLASS * len(names)
    wanted = torch.arange(count) % len(names)
    inputs = sample.NoiseSource.of(run.config, len(names))(0, count)
    drawn = torch.cat(list(sample.draw(run.nets.G, inputs, READ_BATCH_SIZE, common.CPU)))
    right = read_correctly(net, drawn, wanted)
    each = [f"{label} {float(right[wanted == k].mean()):.2f}" for k, label in enumerate(names)]
    print(f"{run.source}: {count:,} drawn, {float(right.mean()):.3f} read as what was asked for")
    print(f"by class: {', '.join(each)}; held-out real ones: {float(ceiling):.3f}")


if __name__ == "__main__":
    common.run(main)
