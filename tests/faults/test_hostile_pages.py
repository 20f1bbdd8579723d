"""Pages with names that try to be markup or URLs, in a real browser."""

from pathlib import Path

from browser import Watched, open_browser
from PIL import Image

from gan import pages

NAMES = (
    "a#b?c%41.png", "<img src=x onerror=alert(1)>.png", "'\"><script>alert(1)<", "é &amp; ü.png",
    "%2e%2e%2f.png", "a b+c.png", "http:x.png",
)  # fmt: skip


def test_pictures_of_hostile_names_are_shown_and_nothing_else_is_done(tmp_path: Path) -> None:
    rows = []
    for index, name in enumerate(NAMES):
        path = tmp_path / "out" / str(index) / name.replace("/", "_")
        path.parent.mkdir(parents=True)
        Image.new("RGB", (5, 4), "red").save(path, "PNG")
        rows.append((name, path, path))
    page = tmp_path / "page.html"
    pages.write_side_by_side(page, rows)
    with open_browser() as browser:
        watched = Watched(browser)
        shown = watched.open(page)
        for picture in shown.query_selector_all("img"):
            picture.scroll_into_view_if_needed()
        shown.wait_for_function("[...document.images].every(x => x.complete)")
        widths = shown.evaluate("[...document.images].map(x => x.naturalWidth)")
        assert widths == [5] * (2 * len(NAMES))
        assert [x.inner_text() for x in shown.query_selector_all("figcaption")] == list(NAMES)
        assert shown.query_selector_all("script") == []
        watched.check()
