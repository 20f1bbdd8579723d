"""The notebook in docs/, executed on a tiny run."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from processes import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "family": "dcgan", "img_size": 28, "nz": 8, "ngf": 4, "ndf": 4, "batch_size": 20, "gpu": False,
    "held_out": 0, "num_workers": 1, "max_images": 60, "save_every": 1,
}  # fmt: skip


def widgets_of(book: Any) -> list[dict[str, Any]]:
    """What the bars of an executed notebook were at the end."""
    saved = book.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]
    return list(saved["state"].values())


def test_the_notebook_runs_from_top_to_bottom(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("ipywidgets")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    (parameters,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source = f"DATA = {str(faces)!r}\nSETTINGS = {TINY!r}\nRANK_BY = 'score'"
    nbclient.NotebookClient(
        book, timeout=PATIENCE_SECONDS, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for c in book.cells if c.cell_type == "code" for output in c.outputs]
    pictures = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    # the newest preview while it trains, the run itself, faces, the best ones
    sizes = [Image.open(io.BytesIO(base64.b64decode(each))).size for each in pictures]
    assert sizes == [(242, 242), (242, 122), (242, 122), (242, 62)]
    assert Image.open(tmp_path / "walk.gif").n_frames == 60  # type: ignore[attr-defined]
    assert (tmp_path / "faces.html").is_file()
    bars = [w["state"] for w in widgets_of(book) if w["model_name"] == "FloatProgressModel"]
    assert {bar["max"] for bar in bars} > {1.0}  # of the training, and of what is counted
    assert not [bar for bar in bars if bar["bar_style"]], "one stayed, in red"
    texts = [output.get("text", "") for output in outputs]
    assert not [text for text in texts if "\r" in text], "a bar of a terminal"
    assert not [c for c in nbformat.read(ROOT / "docs" / "notebook.ipynb", 4).cells
                if c.get("outputs")], "committed without outputs"  # fmt: skip
