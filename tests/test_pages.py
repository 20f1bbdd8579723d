"""The pages: what they say, that names are escaped, and that they ask nobody for anything."""

import base64
import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from conftest import ROOT
from jinja2 import UndefinedError
from PIL import Image
from processes import PATIENCE_SECONDS

from gan import console, metrics, pages

HOSTILE = """<script>alert("1")</script> & 'quoted' {{ 7 * 7 }} \udcff.png"""
FOUND: dict[str, Any] = {
    "drawn_by": "run <b>",
    "data": "faces & more",
    "n_fake": 2000,
    "n_train": 900,
    "n_held_out": 100,
    "scores": {
        "KID (lite0)": {"value": 0.12345, "error": 0.00456, "floor": 0.01},
        "coverage": {"value": 0.5, "floor": 0.96},
    },
    "memorisation": {"ratio": 0.87, "copied": 0.02, "pairs": []},
}


def policy(text: str) -> dict[str, set[str]]:
    """Directive -> sources of the page's content security policy."""
    (content,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    words = [part.split() for part in content.split(";")]
    return {name: set(sources) for name, *sources in words}


def attributes(text: str, name: str) -> list[str]:
    return [html.unescape(value) for value in re.findall(rf'\s{name}="([^"]*)"', text)]


def evaluation(tmp_path: Path) -> str:
    pictures = {"64 <samples>": Image.new("RGB", (4, 6), "red"), "closest": Image.new("L", (2, 2))}
    page = tmp_path / "new folder" / "page.html"
    rows = pages.score_rows(FOUND)
    notes = pages.score_notes(rows, pages.REFERENCE_NOTE)
    pages.write_evaluation(page, FOUND, rows, notes, pictures)
    return page.read_text(encoding="utf-8")


def comparison(**values: object) -> str:
    """The page of `compare` from values that are made up."""
    picture = pages.data_uri(Image.new("RGB", (2, 2)))
    given: dict[str, object] = {
        "title": HOSTILE,
        "command": HOSTILE,
        "notes": [HOSTILE],
        "unfinished": [(HOSTILE, HOSTILE)],
        "head": ["setting", "final score"],
        "rows": [("rgb(1 2 3)", [HOSTILE, "0.123 ± 0.004"])],
        "curves": picture,
        "preview_head": [["25%", "100 images"], ["at its own end"]],
        "previews": [("rgb(1 2 3)", HOSTILE, [("100 images, 0.1 minutes", picture), None])],
        "events": [(HOSTILE, [HOSTILE])],
    }
    return pages.render("compare.html", **given | values)


def side_by_side(tmp_path: Path) -> str:
    page = tmp_path / "page.html"
    pages.write_side_by_side(page, [(HOSTILE, tmp_path / "a.png", tmp_path / "b.png")])
    return page.read_text(encoding="utf-8")


# what every page has to be


@pytest.mark.parametrize("kind", ["evaluate", "compare", "side_by_side"])
def test_a_page_asks_nobody_for_anything_and_fits_a_phone(kind: str, tmp_path: Path) -> None:
    text = {
        "evaluate": lambda: evaluation(tmp_path),
        "compare": comparison,
        "side_by_side": lambda: side_by_side(tmp_path),
    }[kind]()
    images = {"data:"} | ({"'self'", "file:"} if kind == "side_by_side" else set())
    scripts = {} if kind == "side_by_side" else {"script-src": {"'unsafe-inline'"}}
    assert policy(text) == {
        **scripts,
        "default-src": {"'none'"},
        "style-src": {"'unsafe-inline'"},
        "img-src": images,
        "base-uri": {"'none'"},
        "form-action": {"'none'"},
    }
    for request in ("http:", "https:", "src=//", 'src="//', "url(", "@import", "<link", "<script "):
        assert request not in text
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert '<meta name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text
    assert text.index('<meta charset="utf-8">') < 1024  # where browsers look for it
    assert len(re.findall("<img ", text)) == len(re.findall('<img [^>]*alt="[^"]+"', text)) > 0
    assert text.count("<table") == len(re.findall(r'<div class="scroll"[^>]*>\s*<table', text))


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    escaped = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = escaped.replace('"', "&#34;").replace("'", "&#39;")
    text = comparison()
    assert text.count("<script>") == 1  # ours
    assert text.count(escaped) == 11  # title twice, alt text, and each other value once
    assert attributes(text, "alt")[1] == f"{HOSTILE}, at 100 images, 0.1 minutes"
    text = side_by_side(tmp_path)
    assert "<script" not in text
    assert f"<figcaption>{escaped}</figcaption>".replace("\udcff", "\\udcff") in text
    shown = HOSTILE.replace("\udcff", "\\udcff")
    assert attributes(text, "alt") == [f"{shown}, given", f"{shown}, translated"]


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="rows"):
        pages.render("side_by_side.html", title="x")


def test_templates_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pages._environment.cache_clear()
    assert "No pictures" in pages.render("side_by_side.html", title="x", rows=[])
    assert not list(tmp_path.iterdir())


def test_importing_the_pages_loads_neither_torch_nor_jinja2() -> None:
    code = "import sys, gan.pages; print(sorted({'torch', 'numpy', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == "[]\n", done.stderr


# pictures in a page


def decoded(uri: str, kind: str) -> bytes:
    head, data = uri.split(",")
    assert head == f"data:image/{kind};base64"
    return base64.b64decode(data, validate=True)


def test_a_picture_becomes_a_data_uri(tmp_path: Path) -> None:
    picture = Image.new("RGB", (5, 3), (10, 200, 30))
    seen = Image.open(io.BytesIO(decoded(pages.data_uri(picture), "png")))
    assert (seen.size, seen.getpixel((4, 2))) == ((5, 3), (10, 200, 30))
    picture.save(tmp_path / "x.jpg")
    data = (tmp_path / "x.jpg").read_bytes()
    assert decoded(pages.data_uri(tmp_path / "x.jpg"), "jpeg") == data
    assert pages.data_uri(data) == pages.data_uri(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="neither PNG nor JPEG"):
        pages.data_uri(b"<svg onload=...>")
    with pytest.raises(FileNotFoundError):
        pages.data_uri(tmp_path / "none.png")


# writing


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "new" / "page.html"
    pages.write_page(page, "side_by_side.html", title="\udcff 名", rows=[])
    assert "<h1>\\udcff 名</h1>" in page.read_text(encoding="utf-8")
    before = page.read_bytes()

    def fail(*given: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        pages.write_page(page, "side_by_side.html", title="other", rows=[])
    assert page.read_bytes() == before
    assert list(page.parent.iterdir()) == [page]


# evaluate


def test_the_page_of_evaluate_has_the_numbers_of_the_terminal(tmp_path: Path) -> None:
    text = evaluation(tmp_path)
    assert "<title>Scores of run &lt;b&gt;</title>" in text
    assert "2,000 pictures were scored. Data: faces &amp; more." in text
    rows = re.findall(r"<tr>(.*)</tr>", text)
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in rows]
    assert cells[1:] == [list(row) for row in pages.score_rows(FOUND)[1:]]
    assert ["KID (lite0)", "lower", "0.1235 ± 0.0046", "0.0100", "2000 / 100"] in cells
    assert ["memorisation ratio", "near 1", "0.8700", "1.0000", "2000 / 900"] in cells
    assert html.escape(pages.REFERENCE_NOTE) in text
    assert attributes(text, "alt") == ["64 <samples>", "closest"]
    first, second = attributes(text, "src")
    assert Image.open(io.BytesIO(decoded(first, "png"))).size == (4, 6)
    assert Image.open(io.BytesIO(decoded(second, "png"))).mode == "L"


def test_the_json_beside_the_page_is_what_was_found(tmp_path: Path) -> None:
    evaluation(tmp_path)
    text = (tmp_path / "new folder" / "page.json").read_text(encoding="utf-8")
    assert text == json.dumps(FOUND, indent=1) + "\n"


def test_the_scores_for_a_terminal() -> None:
    assert console.format_table(pages.score_rows(FOUND)).splitlines() == [
        "score               better     value            reference  images",
        "KID (lite0)         lower      0.1235 ± 0.0046  0.0100     2000 / 100",
        "coverage            higher     0.5000           0.9600     2000 / 100",
        "memorisation ratio  near 1     0.8700           1.0000     2000 / 900",
        "copied share        near 0.01  0.0200           0.0100     2000 / 900",
    ]


def test_every_number_on_the_page_is_explained(tmp_path: Path) -> None:
    text = evaluation(tmp_path)
    assert '<th scope="col">reference (real images)</th>' in text
    lines = re.findall(r"<li>(.*)</li>", text)
    assert [line.split(":")[0] for line in lines] == [
        "KID", "coverage", "memorisation ratio", "copied share", "Reference",
    ]  # fmt: skip
    assert lines[0].endswith("Lower is better.")
    assert lines[2].endswith("Good is near 1.")


def test_every_score_there_is_has_a_line_and_a_direction(faces: Path) -> None:
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(faces.glob("*.png"))]
    pixels = np.stack(images[:48]).transpose(0, 3, 1, 2)
    found = metrics.evaluate(pixels[:16], pixels[16:32], pixels[32:], "random")
    rows = pages.score_rows(found)
    explained = pages.score_notes(rows).splitlines()
    assert len(explained) == len({row[0].split()[0] for row in rows[1:]})
    assert all(row[1] in ("lower", "higher", "near 1", "near 0.01") for row in rows[1:])
    assert not any("," in row[0] for row in rows)


# compare


def test_the_page_of_compare_shows_what_it_is_given() -> None:
    text = comparison(title="A", command="main.py compare", unfinished=[("r", "failed: no luck")])
    assert "<pre>main.py compare</pre>" in text
    assert '<li class="bad">r: failed: no luck</li>' in text
    assert "<td>0.123 ± 0.004</td>" in text
    assert text.count('style="background: rgb(1 2 3)"') == 2
    assert "25%<br>100 images" in text
    assert "<td>-</td>" in text  # no preview at that point
    text = comparison(unfinished=[], previews=[], events=[])
    assert 'class="bad"' not in text
    assert "There are no previews yet." in text
    assert "There were none." in text


# side by side


NAMES = ["a b.png", "#1?x=%20&y.png", "c:d.png", "quote'\"<i>.png", "名.png", "\udcff.png"]


@pytest.mark.parametrize("where", ["page.html", "deep/er/page.html", "out/page.html"])
def test_no_picture_of_a_side_by_side_page_is_missing(where: str, tmp_path: Path) -> None:
    rows = []
    for name in NAMES:
        row = (name, tmp_path / "out" / "given" / name, tmp_path / "out" / name)
        for path in row[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2)).save(os.fsencode(path), "PNG")
        rows.append(row)
    page = tmp_path / where
    pages.write_side_by_side(page, rows)
    text = page.read_text(encoding="utf-8")
    sources = attributes(text, "src")
    assert len(sources) == 2 * len(NAMES)
    for source, path in zip(sources, [path for row in rows for path in row[1:]], strict=True):
        assert re.fullmatch(r"[\w./%~-]+", source, re.ASCII)
        found = os.path.join(os.fsencode(page.parent), unquote_to_bytes(source))
        assert os.path.samefile(found, os.fsencode(path))
    assert attributes(text, "alt")[:2] == ["a b.png, given", "a b.png, translated"]
