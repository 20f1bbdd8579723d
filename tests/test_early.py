"""What words, names and folders alone say is refused before torch is imported."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from processes import PATIENCE_SECONDS

# a line each: the words, and how the refusal begins
REFUSALS = """
train --family=dcgann | --family=dcgann: no such family; did you mean dcgan?
train --name=old --resume --family=none | --family=none: no such family
train --loss=none | --loss=none: wants logistic or hinge
train --noise=none | --noise=none: wants normal or uniform
train --optimizer=none | --optimizer=none: wants adam or rmsprop
train --penalty=3 | --penalty: modern has no use for it; rpgan, wgan-gp do
train --family=pix2pix | --data-path: pix2pix has no data of its own
train --family=mlp --img-size=512 | --img-size=512: mlp has weights for each pixel
train --batch-size=1 | --batch-size=1: D of modern has to see several images
train --max-images=0 --max-epoch=0 | --max-epoch, --max-images, --max-minutes: all are 0
train --family=wgan --beta1=0.5 | --beta1: rmsprop has no use for it
generate --family=none --netg-path=g.pth | --family=none: no such family
generate --rank-by=none-such | --rank-by=none-such: wants consensus or realism
evaluate --features=none | --features=none: wants lite0 or inception
translate --input=. --family=none | --family=none: no such family
compare --family=none,modern | --family=none: no such family
compare --family=modern --penalty=1,2 | --penalty: modern has no use for it
train --name=old | checkpoints/old holds an earlier run
train --name=y --data-path=none | --data-path=none: no such folder or zip
train --name=y --resume | --resume: no valid state in checkpoints/y
train --resume=gone.pth | gone.pth: no such file
train --resume --overwrite | --overwrite: not with --resume
train --name=old --resume --netg-path=g.pth | --netg-path: not with --resume
train --contact-sheet=sheet.txt | --contact-sheet=sheet.txt: a name that ends in
train --wandb=mine | --wandb: needs a package that nothing else does
train --config=none.json | --config=none.json: No such file
train --netg-path=gone.pth | gone.pth: no such file
train --init=nothing | --init=nothing: neither a run in checkpoints/
train --init=old --netg-path=g.pth | --init=old: not with --netg-path
train --name=y --data-path=. | --data-path=.: the run would write into it
train --name=file | --name=file: checkpoints/file is a file
generate --name=nothing | no checkpoint of run nothing in checkpoints/nothing
generate --netg-path=gone.pth | gone.pth: no such file
generate --netd-path=g.pth | --netg-path: give the weights of G too
generate --gen-img=faces.txt | --gen-img=faces.txt: give it a suffix
generate --gap-colour=reddish | --gap-colour=reddish: no colour
generate --like=gone.png | --like=gone.png: no such file
generate --gen-index=5,x | --gen-index=5,x: numbers and ranges
generate --name=old --data-path=none | --data-path=none: no such folder or zip
evaluate --name=nothing | no checkpoint of run nothing
evaluate --fake-path=none | --fake-path=none: no such folder or zip
evaluate --fake-path=. --data-path=none | --data-path=none: no such folder or zip
evaluate --fake-path=. --seed=3 | --seed: --fake-path is scored, not a run
evaluate --report=page.pdf | --report=page.pdf: a name that ends in .html
evaluate --report=file/page.html | --report=file/page.html
translate --input=none | --input=none: no such folder or zip
translate --name=nothing --input=g.pth | no checkpoint of run nothing
export --name=nothing | no checkpoint of run nothing
export --name=nothing --to=web | no checkpoint of run nothing
export --name=nothing --net=D --file=d.pth | no checkpoint of run nothing
export --file=faces.txt | --file=faces.txt: give it a name that ends in .onnx
export --net=D | --net=D: only as .pth
export --net=D --to=web | --net=D: only as .pth
export --file=file/faces.pt | --file=file/faces.pt
interpolate --name=nothing | no checkpoint of run nothing
interpolate --output=walk.avi | --output=walk.avi: gif, webp, mp4, png
interpolate --seeds=3 | one face leads nowhere
directions --name=nothing | no checkpoint of run nothing
directions --output=walk.gif | --output=walk.gif: .png, .jpg or .webp
film --name=nothing | --name=nothing: imgs/nothing has 0 previews
film --name=broken | imgs/broken/2.png: no picture that can be read
report --name=nothing | no checkpoint of run nothing
report --names=old,nothing | --names=old,nothing: there is no run called nothing
report --name=old --data-path=none | --data-path=none: no such folder or zip
prepare --data-path=none --out=clean | --data-path=none: no such folder or file
prepare --data-path=. | --out: give the folder
compare --data-path=.,none | --data-path=none: no such folder or zip
compare --config=none.json | --config=none.json: No such file
compare --netg-path=gone.pth,other.pth | gone.pth: no such file
compare --report=old.html | --report=old.html: cannot be written
compare --g-every=1,five | --g-every=five: wants a whole number
"""
ROWS = [tuple(part.strip() for part in row.split("|")) for row in REFUSALS.split("\n") if row]
ALL = """
import json, sys
import main
from gan.errors import Refused

sys.modules["wandb"] = None  # as where it is not installed
for words in json.loads(sys.argv[1]):
    try:
        main.run(words.split())
        said = "nothing was refused"
    except Refused as error:
        said = str(error)
    print(json.dumps([said, "torch" in sys.modules]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bool]]:
    """What is said to each of ROWS, one after the other, and whether torch is imported then."""
    folder = tmp_path_factory.mktemp("early")
    for name in ("checkpoints/old", "imgs/broken", "checkpoints/file", "old.html"):
        (folder / name).mkdir(parents=True)
    (folder / "checkpoints/file").rmdir()
    old = ("checkpoints/old/state_1.pth", "checkpoints/old/netg_1.pth", "checkpoints/file")
    for name in (*old, "file", "g.pth", "imgs/broken/1.png", "imgs/broken/2.png"):
        (folder / name).write_text("")
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps([words for words, _ in ROWS])],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert not list(folder.glob("*.prepare"))
    return {words: (said, late) for (words, _), (said, late) in zip(ROWS, found, strict=True)}


@pytest.mark.parametrize(("words", "says"), ROWS, ids=[words for words, _ in ROWS])
def test_a_mistake_is_refused_before_torch_is_imported(
    words: str, says: str, answers: dict[str, tuple[str, bool]]
) -> None:
    said, late = answers[words]
    assert said.startswith(says)
    assert not late
