"""Screenshots for docs/pages/: of the page that draws faces, a report, and what `prepare` shows.

    python benchmarks/screenshots.py [faces=FACES.html] [report=REPORT.html] [prepare=OUT.html]

Needs playwright (requirements-dev.txt) and Chromium. How fast the page drew is not in the picture.
"""

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import Watched, open_browser  # type: ignore[import-not-found]  # noqa: E402

FOLDER = ROOT / "docs" / "pages"
QUALITY = 75  # of WebP: less than 150 kB each
WAIT_MS = 120_000.0
KEPT = (12, 28, 7)  # faces that are clicked on
WIDE, PHONE = (1280, 1300), (400, 860)  # pixels


def wait_for_faces(page: Any) -> None:
    page.locator("#status", has_text="faces from seed").wait_for(timeout=WAIT_MS)
    page.add_style_tag(content="#status { visibility: hidden }")


def keep_and_change(page: Any) -> None:
    """Keep a few faces, and move the last one along the first direction."""
    wait_for_faces(page)
    for index in KEPT:
        page.locator("#grid > *").nth(index).click()
    slider = page.locator("#sliders input").first
    slider.evaluate("e => { e.value = 2; e.dispatchEvent(new Event('input', {bubbles: true})) }")
    page.locator("#recipe", has_text="--direction-1=2").wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(2000)


def wait_for_curves(page: Any) -> None:
    page.locator(".uplot").first.wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(500)


def wait_for_pictures(page: Any) -> None:
    page.locator("img").first.wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(1000)


SHOTS = (  # of which page, name, colours, size, what is done first
    ("faces", "faces", "light", WIDE, keep_and_change),
    ("faces", "faces-phone", "dark", PHONE, wait_for_faces),
    ("report", "report-light", "light", WIDE, wait_for_curves),
    ("report", "report-dark", "dark", WIDE, wait_for_curves),
    ("report", "report-phone", "dark", PHONE, wait_for_curves),
    ("prepare", "prepare", "light", WIDE, wait_for_pictures),
)


def main(*words: str) -> None:
    files = dict(word.partition("=")[::2] for word in words)
    if not files or not files.keys() <= {shot[0] for shot in SHOTS}:
        sys.exit(__doc__)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser:
        for kind, name, scheme, (width, height), ready in SHOTS:
            if kind not in files:
                continue
            view = {"width": width, "height": height}
            watched = Watched(browser, color_scheme=scheme, viewport=view)
            page = watched.open(Path(files[kind]))
            ready(page)
            picture = Image.open(io.BytesIO(page.screenshot()))
            watched.check()
            page.close()
            path = FOLDER / f"{name}.webp"
            picture.convert("RGB").save(path, quality=QUALITY, method=6)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
