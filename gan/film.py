"""Moving pictures: GIF, animated WebP and MP4, written frame by frame."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from gan import progress
from gan.console import say
from gan.errors import Refused
from gan.filesystem import atomic_write

Frames = Callable[[int, int], Iterator[Image.Image]]  # (first, count) -> these frames, RGB
TRIED_FRAMES = 8  # written once, to say how large a film will be and how long it takes
LARGE_BYTES = 1e9  # of a film that is written only if it is asked for
LARGE_SECONDS = 1800.0
TOLD_SECONDS = 20.0  # a film that takes longer is announced with its size and time
WEBP_QUALITY = 90
MP4_QUALITY = 8  # of imageio-ffmpeg: 0 to 10


@dataclass(frozen=True)
class Timing:
    """When each frame is shown."""

    count: int  # frames
    fps: float
    hold: float = 0.0  # seconds that the last frame stays longer

    @property
    def milliseconds(self) -> list[int]:
        """How long each frame is shown."""
        each = [round(1000 / self.fps)] * self.count
        each[-1] += round(1000 * self.hold)
        return each


def _write_pillow(
    frames: Iterator[Image.Image], part: Path, timing: Timing, kind: str, **how: object
) -> None:
    first = next(frames)
    # a single duration for a single frame: Pillow indexes a list by frame
    shown = timing.milliseconds if timing.count > 1 else timing.milliseconds[0]
    first.save(part, kind, save_all=True, append_images=frames, duration=shown, loop=0, **how)


def _write_gif(frames: Iterator[Image.Image], part: Path, timing: Timing) -> None:
    """256 colours of its own for each frame."""
    own = (
        frame.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for frame in frames
    )
    _write_pillow(own, part, timing, "GIF", disposal=1)


def _write_webp(frames: Iterator[Image.Image], part: Path, timing: Timing) -> None:
    _write_pillow(frames, part, timing, "WEBP", quality=WEBP_QUALITY, method=4)


def _even(frame: Image.Image) -> Image.Image:
    """The frame with an even number of pixels on each side, which H.264 in 4:2:0 asks for."""
    pixels = np.asarray(frame)
    return Image.fromarray(
        np.pad(pixels, ((0, len(pixels) % 2), (0, pixels.shape[1] % 2), (0, 0)), "edge")
    )


def _write_mp4(frames: Iterator[Image.Image], part: Path, timing: Timing) -> None:
    import imageio_ffmpeg

    first = _even(next(frames))
    last = first
    writer = imageio_ffmpeg.write_frames(
        str(part), first.size, fps=timing.fps, quality=MP4_QUALITY, macro_block_size=1,
        output_params=["-f", "mp4"], ffmpeg_log_level="error",
    )  # fmt: skip
    writer.send(None)
    try:
        for frame in chain([first], map(_even, frames)):
            writer.send(frame.tobytes())
            last = frame
        for _ in range(round(timing.hold * timing.fps)):
            writer.send(last.tobytes())
    finally:
        writer.close()


WRITERS: dict[str, Callable[[Iterator[Image.Image], Path, Timing], None]] = {
    "gif": _write_gif,
    "webp": _write_webp,
    "mp4": _write_mp4,
}


def check_formats(kinds: Sequence[str], given: str) -> None:
    """Raise Refused if ffmpeg is wanted and not there; `given` is the flag that asked for it."""
    if "mp4" not in kinds:
        return
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise Refused(
            f"{given}: MP4 needs a package that nothing else does: pip install imageio-ffmpeg; or "
            "take webp or gif"
        ) from None


@dataclass(frozen=True)
class Estimate:
    """What a film will be."""

    frames: int
    size: float  # bytes
    seconds: float  # to draw and write it

    def __str__(self) -> str:
        minutes = (
            f"{self.seconds / 60:,.0f} minutes" if self.seconds > 90 else f"{self.seconds:.0f} s"
        )
        return f"{self.frames:,} frames, about {self.size / 1e6:,.0f} MB and {minutes}"


def estimate(frames: Frames, timing: Timing, kind: str) -> Estimate:
    """Size and time of the film as `kind`, by its first frames, which are drawn and written."""
    count = min(TRIED_FRAMES, timing.count)
    with TemporaryDirectory() as folder:
        part = Path(folder) / "film"
        began = time.perf_counter()
        WRITERS[kind](frames(0, count), part, Timing(count, timing.fps))
        share = timing.count / count
        return Estimate(
            timing.count, part.stat().st_size * share, (time.perf_counter() - began) * share
        )


def write_films(
    frames: Frames, timing: Timing, paths: Sequence[Path], *, allow_large: bool, way_out: str
) -> None:
    """Write the film to each path, in the format of its suffix, atomically.

    A film that takes long is announced with its size and time. Raises Refused, before any is
    written, for one of more than LARGE_BYTES or LARGE_SECONDS, unless `allow_large`; `way_out` says
    what to do then.
    """
    expected = {path: estimate(frames, timing, path.suffix.lower()[1:]) for path in paths}
    for path, found in expected.items():
        if not allow_large and (found.size > LARGE_BYTES or found.seconds > LARGE_SECONDS):
            raise Refused(f"{path}: {found}; {way_out}")
        if found.seconds > TOLD_SECONDS:
            say(f"{path}: {found}")
    for path in paths:
        kind = path.suffix.lower()[1:]

        def write(part: Path, kind: str = kind, name: str = path.name) -> None:
            drawn = frames(0, timing.count)
            counted = progress.track(drawn, f"writing {name}", timing.count, "frames")
            WRITERS[kind](counted, part, timing)

        atomic_write(path, write)


def rows(frames: Frames, count: int, columns: int) -> list[Image.Image]:
    """`columns` evenly spaced frames out of `count`, the first and the last among them."""
    wanted = np.linspace(0, count - 1, min(columns, count)).round().astype(int)
    return [frame for index in wanted for frame in islice(frames(int(index), 1), 1)]
