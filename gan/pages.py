"""The HTML pages: scores of a run, runs compared, pictures before and after a translation.

Each page is one file that asks no other machine for anything: the style is in it, and so are the
pictures, as data URIs. Only the side-by-side page refers to picture files on the same disk.
A content security policy in `templates/base.html` holds the pages to that.
"""

import base64
import functools
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from PIL import Image

from gan.filesystem import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment

    from gan import metrics

TEMPLATES = Path(__file__).resolve().with_name("templates")
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}  # first bytes of the file types
REFERENCE = "reference"  # the column of what real images score
# What each score says, by the first word of its name: which way is good, and what it is.
READINGS = {
    "score": (
        "lower",
        "score (lite0) + 20 x energy, both the mean of full and half size; best.pth is the state "
        "where it was lowest. With the name of a network it is its KID, the mean of both sizes",
    ),
    "KID": (
        "lower",
        "how far the features of generated images are from those of real ones; 0, or a little "
        "below: they are alike; ± is the standard error",
    ),
    "energy": (
        "lower",
        "how far colours, edges and patches are from those of real images, by the layers of an "
        "untrained network; 0, or a little below: they are alike",
    ),
    "coverage": ("higher", "the share of real images that have a generated image nearby"),
    "FID": (
        "lower",
        "the distance of two Gaussians fitted to the features; only of equal numbers of images "
        "are its values comparable",
    ),
    "precision": ("higher", "the share of generated images that lie among the real ones"),
    "recall": ("higher", "the share of real images that lie among the generated ones"),
    "density": (
        "higher",
        "how many real images a generated one lies near, 1 for a real one; above 1 if generated "
        "images keep to where real ones are many",
    ),
    "SWD": (
        "lower",
        "how far small patches are from those of real images, at each size, and their mean",
    ),
    "memorisation": (
        "near 1",
        "how near generated images are to training images, where held-out images are at 1; well "
        "below 1: training images are copied",
    ),
    "copied": (
        "near 0.01",
        "the share of generated images that are nearer to a training image than 99 % of held-out "
        "images are",
    ),
    "L1": (
        "lower",
        "the mean difference of pixels, 0 to 1; the score of pairs, which chooses best.pth",
    ),
    "PSNR": ("higher", "the mean squared difference of pixels, in dB"),
    "SSIM": ("higher", "how alike small windows are, -1 to 1"),
}
REFERENCE_NOTE = (
    "Reference: the same score of as many training images, against the same held-out images. It is "
    "what a perfect generator would get."
)
COUNT_NOTE = (
    "Images: how many generated images were scored / how many real ones they were compared with."
)
FEATURES_NOTE = (
    "In brackets: the network whose features are compared. lite0 is EfficientNet-Lite0, trained on "
    "ImageNet; random is an untrained network, a second opinion that sees colours; layers are its "
    "layers, whitened by real images. Half size: both sides shrunk to half."
)
NO_REFERENCE_NOTE = (
    "There is no reference and no memorisation, since all real images are compared with; "
    "--held-out=0.1 compares with a tenth of them only, and has both."
)


def better(name: str) -> str:
    """Which way the score of this name is good: "lower", "higher", ...; "" if nobody says."""
    return READINGS.get(name.split()[0], ("", ""))[0]


def score_notes(rows: Sequence[Sequence[str]], *more: str) -> str:
    """A line for every kind of score in `rows` (the head first), then `more`."""
    kinds = dict.fromkeys(row[0].split()[0] for row in rows[1:])
    names = {"memorisation": "memorisation ratio", "copied": "copied share"}
    lines = [
        f"{names.get(kind, kind)}: {READINGS[kind][1]}. {_spoken(READINGS[kind][0])}."
        for kind in kinds
        if kind in READINGS
    ]
    return "\n".join([*lines, *more])


def _spoken(way: str) -> str:
    return f"{way.capitalize()} is better" if way in ("lower", "higher") else f"Good is {way}"


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,  # a value that is missing is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["sort_script"] = markup((TEMPLATES / "sort.js").read_text(encoding="utf-8"))
    return found


def render(template_name: str, **values: object) -> str:
    """The text of a page; everything in `values` is HTML-escaped.

    Raises jinja2.UndefinedError if the template uses a value that is not given.
    """
    return _environment().get_template(template_name).render(values)


def markup(text: str) -> str:
    """`text` of our own that `render` is not to escape: styles, scripts, SVG."""
    from markupsafe import Markup

    return Markup(text)


def data_uri(picture: Image.Image | bytes | Path) -> str:
    """`picture` as a data URI. A Pillow image is encoded as PNG; bytes and files stay as they are.

    Raises ValueError if bytes or a file are neither PNG nor JPEG, and OSError if there is no file.
    """
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.save(file, "PNG")
        data = file.getvalue()
    else:
        data = picture.read_bytes() if isinstance(picture, Path) else picture
    for signature, kind in SIGNATURES.items():
        if data.startswith(signature):
            return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    raise ValueError(f"neither PNG nor JPEG: {data[:8]!r}")


def small_uri(path: Path, side: int, least_bytes: int = 0) -> str | None:
    """A picture file as a data URI, shrunk to `side` pixels as JPEG unless it is small already.

    Files of less than `least_bytes` stay as they are. None if it cannot be read.
    """
    try:
        data = path.read_bytes()
        if len(data) >= least_bytes:
            file = io.BytesIO()
            with Image.open(io.BytesIO(data)) as picture:
                small = picture.convert("RGB")
            small.thumbnail((side, side))
            small.save(file, "JPEG", quality=88)
            data = file.getvalue()
        return data_uri(data)
    except (OSError, ValueError):  # one damaged file must not cost the page
        return None


def _write_text(path: Path, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")  # a file name may hold lone surrogates
    atomic_write(path, lambda part: part.write_bytes(data))


def write_page(path: Path, template_name: str, **values: object) -> None:
    """Render `template_name` to `path`, atomically, as UTF-8; make the folder if there is none.

    Raises OSError if `path` cannot be written, and what `render` raises before anything is written.
    """
    _write_text(path, render(template_name, **values))


def write_json(path: Path, numbers: Mapping[str, object]) -> None:
    """Write `numbers` to `path` as JSON, atomically."""
    _write_text(path, json.dumps(numbers, indent=1) + "\n")


def score_rows(found: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    """The scores that `gan.metrics.evaluate` found, as rows of text.

    The first row is the head: score, which way is better, value, reference, images. KID has its
    standard error behind the value. What `compare` found has no references.
    """

    def value(row: "metrics.Entry") -> str:
        return f"{row['value']:.4f}" + (f" ± {row['error']:.4f}" if "error" in row else "")

    if "n_real" in found:
        count = f"{found['n_fake']} / {found['n_real']}"
        scores = found["scores"].items()
        texts = ((name, better(name), value(row), count) for name, row in scores)
        return [("score", "better", "value", "images"), *texts]
    rows = [("score", "better", "value", REFERENCE, "images")]
    count = f"{found['n_fake']} / {found['n_held_out']}"
    for name, row in found["scores"].items():
        rows.append((name, better(name), value(row), f"{row['floor']:.4f}", count))
    copies = found["memorisation"]
    count = f"{found['n_fake']} / {found['n_train']}"
    for name, found_value, usual in (
        ("memorisation ratio", copies["ratio"], "1.0000"),
        ("copied share", copies["copied"], "0.0100"),
    ):
        rows.append((name, better(name), f"{found_value:.4f}", usual, count))
    return rows


def write_evaluation(
    path: Path,
    found: Mapping[str, Any],
    rows: Sequence[Sequence[str]],
    notes: str,
    pictures: Mapping[str, Image.Image],
) -> None:
    """Write the page of `evaluate`, and the numbers beside it as JSON (`found` as it is).

    `found` holds at least "drawn_by" (the run or folder), "n_fake" and "data". `rows` is the table
    of scores, its head first; the lines of `notes` say how to read it; `pictures` are shown under
    their titles.
    """
    head = [f"{REFERENCE} (real images)" if name == REFERENCE else name for name in rows[0]]
    write_json(path.with_suffix(".json"), found)
    write_page(
        path,
        "evaluate.html",
        title=f"Scores of {found['drawn_by']}",
        count=found["n_fake"],
        data=found["data"],
        rows=[head, *rows[1:]],
        notes=notes.split("\n"),
        pictures=[(title, data_uri(picture)) for title, picture in pictures.items()],
    )


def file_url(path: Path, folder: Path) -> str:
    """A relative URL that leads from a page in `folder` to the file `path`; both need not exist."""
    relative = Path(os.path.relpath(path, folder))
    return quote(os.fsencode(relative.as_posix()))


def write_side_by_side(path: Path, rows: Iterable[tuple[str, Path, Path]]) -> None:
    """Write the page of `translate --side-by-side`: (name, given file, translated file) a row."""
    write_page(
        path,
        "side_by_side.html",
        title="Before and after",
        rows=[
            (name, file_url(given, path.parent), file_url(translated, path.parent))
            for name, given, translated in rows
        ],
    )
