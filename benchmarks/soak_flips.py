"""A damaged byte anywhere in a file: what is read is refused, built again, or equal."""

import contextlib
import io
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from soak_work import LOST, Record, digest, fork, see_cheaply, wait, words_of, workplace

from config import read_config
from gan import checkpoint, data, features, weights
from gan.errors import Refused
from models import restore

Read = Callable[[], object]


def damage(file: Path, whole: dict[Path, bytes], read: Read, expected: object, number: int) -> str:
    """Change one byte of `file`, read, and put back the files of `whole`."""
    chance, content = random.Random(f"{file.name} {number}"), bytearray(whole[file])
    content[chance.randrange(len(content))] ^= chance.randint(1, 255)
    file.write_bytes(content)
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("always")  # not once only
            same = read() == expected
        if same:
            return "equal, after a line" if said.getvalue() else "equal"
        told = "by other hands" in said.getvalue()  # a config is for people to change
        return "another setting, told in a line" if told else f"{LOST}another result"
    except Refused:
        return "refused"
    except Exception as error:
        return f"{LOST}{error!r}"
    finally:
        for path, before in whole.items():
            path.write_bytes(before)


def readers(top: Path) -> dict[str, tuple[Path, Read]]:
    """Each kind of file, and what reads it."""

    def images() -> object:
        found = data.open_images(str(top / "faces"), 8, 3, cache=top / "c", workers=1)
        return found.digest, found.train.tobytes(), found.array.tobytes()

    with contextlib.redirect_stdout(io.StringIO()):
        images()
    [cache] = (path for path in (top / "c").iterdir() if path.is_dir())
    pixels = np.zeros((4, 3, 8, 8), np.uint8)

    def reference() -> object:
        return features.Reference(cache / "features.npz").features(pixels, "random").tobytes()

    reference()
    run = top / "checkpoints" / "k"
    state = checkpoint.states(run)[0]
    [netg] = sorted(run.glob("netg_*.pth"))[-1:]

    def drawn(path: Path) -> object:
        found = weights.find_weights(checkpoint.load(path), "G", str(path))
        assert isinstance(found, dict)
        return {key: value.numpy().tobytes() for key, value in found.items()}

    def restored() -> object:
        nets, config, facts = restore(state)
        return config, facts, {k: v.numpy().tobytes() for k, v in nets.G.state_dict().items()}

    exported = top / "f.safetensors"
    return {
        "a state, gone on with": (state, lambda: digest(top)),
        "a state, drawn with": (state, restored),
        "weights of a save": (netg, lambda: drawn(netg)),
        "exported safetensors": (exported, lambda: drawn(exported)),
        "a cache, images.u8": (cache / "images.u8", images),
        "a cache, split.npy": (cache / "split.npy", images),
        "a cache, index.json": (cache / "index.json", images),
        "features.npz": (cache / "features.npz", reference),
        "config.json": (run / "config.json", lambda: read_config(str(run / "config.json"))),
    }


def flips(record: Record, trials: int) -> None:
    """So many damaged bytes in each kind of file."""
    see_cheaply()
    with workplace() as top:
        assert wait(fork(top, words_of("mlp-tiny", top))) == 0
        export = ["export", "--name=k", "--file=f.safetensors", "--card=False"]
        assert wait(fork(top, export)) == 0
        os.chdir(top)
        for name, (file, read) in readers(top).items():
            kept = {path: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}
            with contextlib.redirect_stderr(io.StringIO()):
                expected = read()

            def attempt(number: int) -> str:
                return damage(file, kept, read, expected, number)  # noqa: B023 (called here)

            record.try_all(f"a damaged byte in {name}", trials, attempt)
            shutil.rmtree(top / "parts", ignore_errors=True)


PARTS = {"flips": (flips, 1000)}
