"""Runs from Python: train one, load one, draw, rank and walk with it."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands import faces, flags, generate, places, runs
from commands import train as train_command
from config import Config, Value

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from gan import sample

LOOK_SECONDS = 2.0  # between two looks for a new preview while a notebook trains
GRID_FACES = 32  # that a run shows of itself in a notebook


class Run:
    """A trained run, to draw with. Pictures are uint8 [n, H, W, C], C 3 or 1.

    Raises `Refused`, in one line, for what cannot be done.
    """

    def __init__(self, loaded: runs.LoadedRun, device: "torch.device") -> None:
        self.loaded, self.device = loaded, device
        loaded.nets.G.to(device).eval()
        loaded.nets.D.to(device).eval()

    @property
    def config(self) -> Config:
        """Its settings, as the flags of `train` name them."""
        return self.loaded.config

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of a conditional run; () of any other."""
        return self.loaded.facts.class_names

    def __repr__(self) -> str:
        config = self.config
        return f"<Run {self.loaded.source}: {config.family}, {config.img_size} pixels>"

    def source(
        self, seed: int | None = None, label: str = "", trunc: float = 0.0
    ) -> "sample.NoiseSource":
        """The noise of its faces: `source(first, count)` are the inputs of G."""
        found = faces.source_of(self.loaded, label, trunc)
        return found if seed is None else replace(found, seed=seed)

    def draw(
        self,
        count: int = 64,
        seed: int | None = None,
        *,
        first: int = 0,
        label: str = "",
        trunc: float = 0.0,
    ) -> "NDArray[np.uint8]":
        """Faces `first` to `first + count - 1` of `seed`, those of `generate --rank-by=none`."""
        return self.draw_inputs(*self.source(seed, label, trunc)(first, count))

    def draw_inputs(self, *inputs: "torch.Tensor") -> "NDArray[np.uint8]":
        """The pictures of noise [n, nz] and, of a conditional run, classes [n, classes]."""
        import numpy as np

        from gan import sample

        drawn = sample.draw_uint8(self.loaded.nets.G, inputs, self.config.batch_size, self.device)
        return np.ascontiguousarray(drawn.permute(0, 2, 3, 1).numpy())

    def rank(
        self, count: int = 64, among: int = 512, by: str = "consensus", seed: int | None = None
    ) -> "tuple[NDArray[np.uint8], list[dict[str, float]]]":
        """The `count` best of `among` faces, best first, and index and score of each.

        `by` is consensus, realism, ratio (which need the run's images), score or none.
        """
        words = {"gen_num": str(count), "gen_search_num": str(among), "rank_by": by}
        request = flags.read(generate.FLAGS, (), words)
        generate.check_counts(request)
        own = self.loaded
        if seed is not None:
            own = replace(own, config=replace(own.config, seed=seed))
        best, kind = generate.rank_faces(request, own, [], by, self.device)
        about = [
            {"index": int(index), kind: float(score)}
            for index, score in zip(best.indices, best.scores, strict=True)
        ]
        return best.images.permute(0, 2, 3, 1).numpy(), about

    def walk(
        self, seeds: Sequence[int], frames: int = 30, *, loop: bool = False, label: str = ""
    ) -> "NDArray[np.uint8]":
        """A walk through the first face of each seed, `frames` frames from one to the next."""
        import torch

        from gan import latent

        source = self.source(label=label)
        ends = [replace(source, seed=seed)(0, 1) for seed in seeds]
        z = latent.walk(
            torch.cat([end[0] for end in ends]), frames, loop=loop, kind=self.config.noise
        )
        classes = (part.expand(len(z), -1) for part in ends[0][1:])
        return self.draw_inputs(z, *classes)

    def images(self, pixels: "NDArray[np.uint8]") -> "list[Image.Image]":
        """Pictures [n, H, W, C] as Pillow images."""
        from PIL import Image

        return [Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in pixels]

    def grid(self, pixels: "NDArray[np.uint8]", columns: int = 8) -> "Image.Image":
        """Pictures [n, H, W, C] as one, row by row."""
        from gan import sheet

        return sheet.grid([image.convert("RGB") for image in self.images(pixels)], columns)

    def _repr_png_(self) -> bytes:
        """What a notebook shows of a run: its first faces."""
        import io

        file = io.BytesIO()
        self.grid(self.draw(GRID_FACES)).save(file, "PNG")
        return file.getvalue()


def load(path: str = "", *, best: bool = True, gpu: bool | str = "auto") -> Run:
    """A run by its name or folder ("mine", "checkpoints/mine"), or weights that `export` wrote.

    Without a path it is the newest run. `best` takes the best-scored state, not the newest.
    """
    from gan import machine

    given: dict[str, Value] = {"gpu": gpu}
    file = Path(path)
    if path and file.is_file():
        given["netg_path"] = path
    elif path:
        given["name"] = file.name
        if file.is_dir() and file.parent.name == "checkpoints" and len(file.parts) > 2:
            return _load_elsewhere(file, given, best)
    loaded = faces.load(given, "load", best=best)
    return Run(loaded, machine.pick_device(gpu))


def _load_elsewhere(folder: Path, given: dict[str, Value], best: bool) -> Run:
    """A run in the checkpoints of another working folder."""
    from gan import machine

    with _inside(folder.parent.parent):
        loaded = faces.load(given, "load", best=best)
    return Run(loaded, machine.pick_device(given["gpu"]))  # type: ignore[arg-type]


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """The same as contextlib.chdir, which Python 3.10 has not."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def train(**settings: Value) -> Run:
    """Train a run and load it; `settings` are those of `train --help`: data_path, max_minutes, ...

    In a notebook the newest preview is shown while it trains. An interrupt saves, as Ctrl-C does.
    """
    words = {name: str(value) for name, value in settings.items()}
    with _previews(str(settings.get("name", ""))):
        train_command.main((), words)
    return load(str(settings.get("name", "")), gpu=settings.get("gpu", "auto"))  # type: ignore[arg-type]


@contextlib.contextmanager
def _previews(name: str) -> Iterator[None]:
    """Within it a notebook shows the run's newest preview; elsewhere nothing happens."""
    try:
        from IPython import get_ipython
        from IPython.display import Image, display
    except ImportError:
        yield
        return
    if get_ipython() is None:
        yield
        return
    folder, done = places.folder_of("imgs", name), threading.Event()
    before = {path: path.stat().st_mtime for path in folder.glob("*.png")}
    handle = display(display_id=True)

    def look() -> None:
        shown: tuple[Path, float] | None = None
        while True:
            last = done.wait(LOOK_SECONDS)
            found = [(path, path.stat().st_mtime) for path in folder.glob("[0-9]*.png")]
            new = [each for each in found if before.get(each[0]) != each[1]]
            newest = max(new, key=lambda each: each[1], default=None)
            if newest and newest != shown:
                shown = newest
                handle.update(Image(filename=str(newest[0])))
            if last:
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(10)
