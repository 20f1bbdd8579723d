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

if TYPE_CHECKING:
    from jinja2 import Environment

    from gan import metrics

TEMPLATES = Path(__file__).resolve().with_name("templates")
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}  # first bytes of the file types
SCORE_NOTES = """KID, FID and SWD: lower is better; 0: generated and real images are alike.
Precision, recall, density and coverage: higher is better. "Floor" is the score of as many training
images against the same held-out images: what a perfect generator would get. "Images" counts
generated / real images. A memorisation ratio well below 1 means that training images are
copied."""
COMPARISON_NOTES = """KID, FID and SWD: lower is better; 0: both sets are alike. Precision,
recall, density and coverage: higher is better. "Images" counts the images scored / compared with.
There is no floor, and no memorisation, since all real images are compared with; --held-out=0.1
compares with a tenth of them only, and has both."""


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,  # a value that is missing is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )


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


def _write_text(path: Path, text: str) -> None:
    from gan.checkpoint import atomic_write  # which imports torch

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


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as text for a terminal, each column as wide as its widest text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in padded)


def score_rows(found: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    """The scores that `gan.metrics.evaluate` found, as rows of text: score, value, floor, images.

    The first row is the head. KID has its standard error behind the value. What `compare` found
    has no floors: score, value, images.
    """

    def value(row: "metrics.Entry") -> str:
        return f"{row['value']:.4f}" + (f" ± {row['error']:.4f}" if "error" in row else "")

    if "n_real" in found:
        count = f"{found['n_fake']} / {found['n_real']}"
        scores = found["scores"].items()
        return [("score", "value", "images"), *((name, value(row), count) for name, row in scores)]
    rows = [("score", "value", "floor", "images")]
    count = f"{found['n_fake']} / {found['n_held_out']}"
    for name, row in found["scores"].items():
        rows.append((name, value(row), f"{row['floor']:.4f}", count))
    copies = found["memorisation"]
    count = f"{found['n_fake']} / {found['n_train']}"
    rows.append(("memorisation ratio", f"{copies['ratio']:.4f}", "1.0000", count))
    rows.append(("copied share", f"{copies['copied']:.4f}", "0.0100", count))
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
    of scores, its head first; `notes` says how to read it; `pictures` are shown under their titles.
    """
    write_json(path.with_suffix(".json"), found)
    write_page(
        path,
        "evaluate.html",
        title=f"Scores of {found['drawn_by']}",
        count=found["n_fake"],
        data=found["data"],
        head=rows[0],
        rows=rows[1:],
        notes=notes,
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
