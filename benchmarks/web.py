"""How large a page of `export --to=web` is, and how fast Chromium draws with it from file://.

    python benchmarks/web.py faces.html

Needs playwright (requirements-dev.txt) and Chromium. Prints the size, the time from opening the
page to its first face, and faces per second: of all cores that the page uses, and of one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from browser import Watched, open_browser  # type: ignore[import-not-found]

ONE_CORE = """() => {
    const weights = new Uint16Array(bytesOf("weights").buffer);
    const generator = new Generator(about.program, fromHalf(weights), bytesOf("kernels"));
    const inputs = Array.from({length: 64}, (_, i) => inputOf(shown(i)));
    generator.draw(inputs[0]);
    const start = performance.now();
    for (const input of inputs) generator.draw(input);
    return 64000 / (performance.now() - start);
}"""


def main(path: Path) -> None:
    with open_browser() as browser:
        watched = Watched(browser)
        page = watched.open(path)
        status = page.locator("#status", has_text="faces from seed")
        status.wait_for()
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
        print(status.inner_text())
        print(f"one core: {page.evaluate(ONE_CORE):.0f} faces a second")
        watched.check()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
