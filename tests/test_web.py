"""The page that draws faces: in a browser it draws what G draws, and asks no one for anything."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Watched, open_browser
from numpy.typing import NDArray
from PIL import Image
from processes import wait_until
from torch import nn

from config import Config, RunFacts, resolve
from gan import fold, latent, sample, web, web_program
from gan.errors import Refused
from gan.modern import Modulation
from models import FAMILIES

Inside = Callable[..., None]
CPU = torch.device("cpu")
SMALL = {"img_size": 28, "ngf": 4, "ndf": 4, "nz": 10}
OFF = 2  # steps of a byte that a face may differ
CASES: dict[str, dict[str, Any]] = {
    "modern": {"img_size": 45, "seed": 7},  # odd sides, panels that are not whole
    "dcgan": {"img_size": 50, "channels": 1, "seed": 2**63 - 1},
    "dcgan-144": {"img_size": 36},
    "mlp": {"noise": "uniform"},
}
CLASSES = ("<b>cat</b>", "dog", "owl")


def make(name: str, classes: int = 0, **more: Any) -> tuple[nn.Module, Config]:
    """G of a family, with batch norm statistics that are not those of a new net."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    config = resolve(family.defaults, {"family": name, **SMALL, **more})
    G = family.build(config, classes).G
    for module in G.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 3.0)
        elif isinstance(module, Modulation):  # more than a net has that has not learned yet
            nn.init.normal_(module.style.weight, 0, 0.5)
            nn.init.normal_(module.style.bias, 0, 0.2)
    return G.eval(), config


def drawn(G: nn.Module, inputs: sample.Inputs) -> NDArray[np.uint8]:
    """uint8 [n, H, W, 3]."""
    faces = sample.draw_uint8(G, inputs, 16, CPU).expand(-1, 3, -1, -1)
    found: NDArray[np.uint8] = faces.permute(0, 2, 3, 1).numpy()
    return found


def pixels_of(page: Any, selector: str) -> NDArray[np.uint8]:
    """What the canvases show: uint8 [n, H, W, 3]."""
    urls = page.locator(selector).evaluate_all("(all) => all.map((canvas) => canvas.toDataURL())")
    files = (io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls)
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def off(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def wait(page: Any) -> None:
    """Until nothing is being drawn, and all that was drawn is shown."""
    page.locator("#status", has_text="faces from seed").wait_for()
    page.locator("html[data-busy='0']").wait_for(state="attached")


# ---- without a browser --------------------------------------------------------------------------


def test_the_kernels_are_built_from_their_source() -> None:
    for line in (web.FOLDER / "kernels.sha256").read_text().splitlines():
        digest, name = line.split()
        data = (web.FOLDER / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest, f"{name} changed: make web-kernels"


@pytest.mark.parametrize("name", CASES)
def test_folding_batch_norm_changes_no_picture(name: str) -> None:
    G, config = make(name, **CASES[name])
    inputs = sample.NoiseSource.of(config)(0, 4)
    graph = fold.folded(G, inputs)
    assert not [m for m in graph.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (graph(*inputs) - G(*inputs)).abs().max() < 1e-5
    before = G.state_dict()
    assert before.keys() == make(name, **CASES[name])[0].state_dict().keys(), "G is left as it was"


def test_a_norm_that_no_layer_precedes_stays() -> None:
    net = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    nn.init.uniform_(net[1].running_mean)
    x = torch.randn(2, 2, 4, 4)
    graph = fold.folded(net, (x,))
    assert len([m for m in graph.modules() if isinstance(m, nn.BatchNorm2d)]) == 1
    assert torch.equal(graph(x), net.eval()(x))


def test_half_precision_only_where_it_draws_the_same() -> None:
    G, config = make("modern")
    inputs = sample.NoiseSource.of(config)(0, 8)
    program = web_program.compile_program(G, inputs)
    assert (program.half, program.off <= 1) == (True, True)
    assert len(program.weight_bytes()) == 2 * sum(map(len, program.weights))
    with torch.no_grad():  # beyond the range of half precision, undone by the layer after it
        style = G.main[2].style
        style.weight *= 1e6
        style.bias.copy_(1e6 * (1 + style.bias) - 1)
        G.main[4].weight /= 1e6
    program = web_program.compile_program(G, inputs)
    assert not program.half
    assert len(program.weight_bytes()) == 4 * sum(map(len, program.weights))


def test_what_the_page_cannot_run_is_refused_by_name(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(10, 12), nn.Unflatten(1, (3, 2, 2)), nn.Softplus())
    with pytest.raises(Refused, match="cannot run Softplus; --to=onnx can"):
        web.write_page(net, make("modern")[1], RunFacts(), tmp_path / "x.html", "")
    assert not list(tmp_path.iterdir())


def test_a_family_that_draws_from_pictures_is_refused(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commands import places, runs

    config = resolve(FAMILIES["pix2pix"].defaults, {"family": "pix2pix"})
    run = runs.LoadedRun(FAMILIES["modern"].build(Config(**SMALL), 0), config, RunFacts(), "x")  # type: ignore[arg-type]
    monkeypatch.setattr(places, "check_checkpoint", lambda given: None)
    monkeypatch.setattr(runs, "load_run", lambda *_, **__: run)
    with pytest.raises(
        Refused, match=r"a pix2pix draws from pictures.*for runs of modern, unmodulated, rpgan"
    ):
        inside("export", "--to=web")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--to=web", "--file=x.onnx"), r"--to=web writes a file that ends in \.html"),
        (("--to=onnx", "--file=x.html"), r"--to=onnx writes a file that ends in \.onnx"),
        (("--to=web", "--file=."), "a folder; give the name of a file"),
        (("--to=exe",), "wants onnx or torchscript or safetensors"),
    ],
)
def test_files_that_are_refused(words: tuple[str, ...], says: str, inside: Inside) -> None:
    with pytest.raises(Refused, match=says):
        inside("export", *words)


# ---- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def watched(chromium: Any) -> Iterator[Watched]:
    found = Watched(chromium)
    yield found
    found.page.close()
    found.check()


@pytest.mark.parametrize("name", CASES)
def test_the_page_draws_what_generate_draws(name: str, watched: Watched, tmp_path: Path) -> None:
    G, config = make(name, **CASES[name])
    written = web.write_page(G, config, RunFacts(), tmp_path / "x.html", "")
    assert written.file_bytes == (tmp_path / "x.html").stat().st_size
    page = watched.open(tmp_path / "x.html")
    wait(page)
    source = sample.NoiseSource.of(config)
    assert off(pixels_of(page, "#grid canvas"), drawn(G, source(0, 64))) <= OFF
    assert page.input_value("#seed") == str(config.seed)
    # far along, where indices are no longer small
    page.fill("#first", str(2**46 + 3))
    page.locator("#first").blur()
    wait(page)
    assert off(pixels_of(page, "#grid canvas"), drawn(G, source(2**46 + 3, 64))) <= OFF


def test_the_noise_is_that_of_python(watched: Watched, tmp_path: Path) -> None:
    G, config = make("mlp")
    web.write_page(G, config, RunFacts(), tmp_path / "x.html", "")
    page = watched.open(tmp_path / "x.html")
    script = "([seed, index, nz, kind]) => [...noise(seed, index, nz, kind)]"
    for seed in (0, 2**63 - 1):
        for index in (0, 1, 999_999, 2**48):
            for kind in ("normal", "uniform"):
                found = page.evaluate(script, [str(seed), index, 64, kind])
                wanted = sample.noise(seed, index, 1, 64, kind)[0]
                assert np.abs(np.array(found) - wanted.numpy()).max() < 1e-6, (seed, index, kind)
    tails = [2.0**-54, 1e-9, 1e-4, 0.02, 0.3, 0.5, 0.8, 0.99999]
    found = page.evaluate("(all) => all.map(inverseNormal)", tails)
    wanted = torch.special.ndtri(torch.tensor(tails, dtype=torch.float64))
    assert np.allclose(found, wanted, rtol=1e-12, atol=1e-15)


def test_a_conditional_run_draws_its_classes_and_mixes_two(
    watched: Watched, tmp_path: Path
) -> None:
    G, config = make("modern", classes=3)
    web.write_page(G, config, RunFacts(CLASSES), tmp_path / "x.html", "")
    page = watched.open(tmp_path / "x.html")
    wait(page)
    source = sample.NoiseSource.of(config, 3)
    assert off(pixels_of(page, "#grid canvas"), drawn(G, source(0, 64))) <= OFF
    page.select_option("#class", label="<b>cat</b>")
    wait(page)
    cats = sample.NoiseSource.of(config, 3, 0)
    assert off(pixels_of(page, "#grid canvas"), drawn(G, cats(0, 64))) <= OFF
    page.locator("#grid .face").nth(5).click()
    page.select_option("#class", label="dog")
    wait(page)
    page.locator("#grid .face").nth(6).click()
    wait(page)
    ends = cats(5, 1), sample.NoiseSource.of(config, 3, 1)(6, 1)
    z = latent.slerp(ends[0][0][0], ends[1][0][0], torch.tensor([0.5]))
    wanted = drawn(G, (z, torch.tensor([[0.5, 0.5, 0.0]])))
    assert off(pixels_of(page, "#between"), wanted) <= OFF


def test_keep_change_walk_and_save(watched: Watched, tmp_path: Path) -> None:
    G, config = make("modern")
    G.main[-2].weight.data *= 4  # more contrast than a net that has not learned yet
    web.write_page(G, config, RunFacts(), tmp_path / "x.html", "")
    page = watched.open(tmp_path / "x.html")
    wait(page)
    assert page.locator("#tools").is_hidden()
    source = sample.NoiseSource.of(config)
    for index in (2, 9):
        page.locator("#grid .face").nth(index).click()
    assert page.locator("#grid [aria-pressed=true]").count() == 2
    found = latent.directions(G, source, web.SLIDERS, "weights", CPU)
    page.locator("#direction-2").fill("-1.5")
    wait(page)
    wanted = drawn(G, latent.shifted(source(9, 1), found.vectors[1], -1.5))
    assert off(pixels_of(page, "#large"), wanted) <= OFF
    assert off(drawn(G, source(9, 1)), wanted) > 3 * OFF, "the slider moves the picture"
    assert "--seed=0 --gen-index=9 --direction-2=-1.5" in page.inner_text("#recipe")

    with page.expect_download() as saving:
        page.click("#save")
    picture = Image.open(io.BytesIO(saving.value.path().read_bytes()))
    assert (picture.format, saving.value.suggested_filename) == ("PNG", "face_0_9.png")
    assert off(np.asarray(picture.convert("RGB"))[None], wanted) <= OFF

    with page.expect_download() as saving:
        page.click("#gif")
    film = Image.open(io.BytesIO(saving.value.path().read_bytes()))
    assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 48, 0)
    for frame, inputs in (
        (24, latent.shifted(source(9, 1), found.vectors[1], -1.5)),
        (0, source(2, 1)),
    ):
        film.seek(frame)
        seen = np.asarray(film.convert("RGB")).astype(int)
        other = drawn(G, source(2 if frame else 9, 1))[0]
        # 256 colours have to do for 48 pictures that are noise
        assert np.abs(seen - drawn(G, inputs)[0]).mean() < 10 < 25 < np.abs(seen - other).mean()

    address = page.url  # keeps what was kept
    page.goto("about:blank")
    page.goto(address)
    wait(page)
    assert page.locator("#kept .face").count() == 2
    assert off(pixels_of(page, "#large"), wanted) <= OFF


def test_draw_until_i_stop(watched: Watched, tmp_path: Path) -> None:
    G, config = make("mlp")
    web.write_page(G, config, RunFacts(), tmp_path / "x.html", "")
    page = watched.open(tmp_path / "x.html")
    wait(page)
    page.click("#endless")
    wait_until(lambda: int(page.input_value("#first")) >= 64)
    page.click("#endless")
    wait(page)
    first = int(page.input_value("#first"))
    assert first >= 64
    assert first % 64 == 0
    source = sample.NoiseSource.of(config)
    assert off(pixels_of(page, "#grid canvas"), drawn(G, source(first, 64))) <= OFF


def test_an_address_that_somebody_wrote_by_hand(watched: Watched, tmp_path: Path) -> None:
    G, config = make("mlp")
    web.write_page(G, config, RunFacts(), tmp_path / "x.html", "")
    bad = "#seed=-4&first=1e99&limit=x&label=7&keep=a_b~5_1e30_nan_9_9~3_4_1_-1_99"
    page = watched.open(tmp_path / "x.html", bad)
    wait(page)
    assert (page.input_value("#seed"), page.input_value("#first")) == ("0", "0")
    page.fill("#seed", "99999999999999999999")
    page.locator("#seed").blur()
    assert page.input_value("#seed") == "0"


def test_names_are_text(tmp_path: Path) -> None:
    G, config = make("mlp", classes=3)
    hostile = "</script><script>alert(1)</script>"
    web.write_page(G, config, RunFacts((hostile, "b", "c")), tmp_path / "x.html", hostile)
    text = (tmp_path / "x.html").read_text()
    assert "alert(1)</script>" not in text
    found = re.search(r'id="about">(.*?)</script>', text)
    assert found
    assert json.loads(found[1])["classes"][0] == hostile
