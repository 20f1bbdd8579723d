"""Train GANs that draw faces, and draw ranked faces with them.

python main.py train --help
python main.py generate --help
"""

import difflib
import importlib
import os
import re
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

from commands import help
from commands.aliases import snake_case
from commands.flags import BARE, UnknownFlag
from config import flag
from gan import console, job
from gan.errors import Refused, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED_COMMANDS = ("train", "evaluate", "generate")  # that several processes share
FLAG = re.compile("--|-[A-Za-z]")  # how a flag begins; -1 is a number


def call(command: str, stray: tuple[str, ...], options: dict[str, str]) -> None:
    """Call `main` in `commands/<command>.py`."""
    if job.is_job() and command not in SHARED_COMMANDS:
        able = ", ".join(SHARED_COMMANDS)
        raise Refused(f"{command}: one process does it, and torchrun started several; {able} share")
    try:
        importlib.import_module(f"commands.{command}").main(stray, options)
    except SystemExit:  # a signal has stopped the training, in all processes
        leave_job()
        raise
    leave_job()


def leave_job() -> None:
    """Leave the other processes, if there are any; after an error, they may have left already."""
    if job.is_job():
        from gan import distributed

        distributed.stop()


def prepare(*stray: str, **options: str) -> None:
    """Make a data set of what there is: see `python main.py prepare --help`."""
    call("prepare", stray, options)


def train(*stray: str, **options: str) -> None:
    """Train a GAN: see `python main.py train --help`."""
    call("train", stray, options)


def generate(*stray: str, **options: str) -> None:
    """Draw faces, best first: see `python main.py generate --help`."""
    call("generate", stray, options)


def evaluate(*stray: str, **options: str) -> None:
    """Score drawn faces against held-out ones: see `python main.py evaluate --help`."""
    call("evaluate", stray, options)


def translate(*stray: str, **options: str) -> None:
    """Turn pictures of A into pictures of B: see `python main.py translate --help`."""
    call("translate", stray, options)


def export(*stray: str, **options: str) -> None:
    """Write G for other programs: see `python main.py export --help`."""
    call("export", stray, options)


def compare(*stray: str, **options: str) -> None:
    """Train several settings and show them on one page: see `python main.py compare --help`."""
    call("compare", stray, options)


def interpolate(*stray: str, **options: str) -> None:
    """Walk from face to face, as a film: see `python main.py interpolate --help`."""
    call("interpolate", stray, options)


def directions(*stray: str, **options: str) -> None:
    """Show what changes faces most: see `python main.py directions --help`."""
    call("directions", stray, options)


def film(*stray: str, **options: str) -> None:
    """Make the film of a training: see `python main.py film --help`."""
    call("film", stray, options)


def report(*stray: str, **options: str) -> None:
    """Write a page about a run: see `python main.py report --help`."""
    call("report", stray, options)


COMMANDS = {
    command.__name__: command
    for command in (
        train, generate, evaluate, translate, export, compare, interpolate, directions, film,
        prepare, report,
    )
}  # fmt: skip

# what other tools call a command
ELSEWHERE = {
    "draw": "generate", "sample": "generate", "infer": "generate", "test": "evaluate",
    "eval": "evaluate", "score": "evaluate", "fid": "evaluate", "resume": "train",
    "convert": "export", "dataset_tool": "prepare", "style_mixing": "interpolate",
}  # fmt: skip


def spell_out(words: list[str]) -> list[str]:
    """Every flag with its value, so that Fire has nothing to guess: `--name x` -> `--name=x`.

    Fire reads a bare `--noise` as "no ise", a bare `--name` as True, and of a flag that is given
    twice the last one; here the first two are `--noise=BARE`, and the third raises Refused.
    """
    spelled: list[str] = []
    given: set[str] = set()
    left = list(reversed(words))
    while left:
        word = left.pop()
        if not FLAG.match(word):
            spelled.append(word)
            continue
        name, equals, text = word.partition("=")
        if not equals:
            text = left.pop() if left and not FLAG.match(left[-1]) else BARE
        if (key := name.lstrip("-").replace("-", "_")) in given:
            raise Refused(f"{flag(key)}: given twice")
        given.add(key)
        spelled.append(f"{name}={text}")
    return spelled


def run(words: list[str]) -> None:
    """One call of the command line."""
    if not words or words[0] in ("--help", "-h", "help"):
        print(help.usage(COMMANDS))
        return
    if words[0] in ("--version", "-V", "version"):
        print(help.version())
        return
    command, *rest = words
    if command not in COMMANDS:
        near = [ELSEWHERE[command]] if command in ELSEWHERE else []
        near = near or difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise Refused(f"{command}: no such command; {hint}")
    if any(word in ("--help", "-h") for word in rest):
        families = re.findall(r"--family[= ]([^-\s]\S*)", " ".join(rest))
        print(help.help_of(command, families, "--all" in rest))
        return
    for word in rest:
        if word in ("-", "--") or word.startswith(("--=", "---")):  # Fire would pass these over
            raise Refused(f"{word}: a stray word; flags are --x=y")
    words = [command, *spell_out(rest)]
    import fire
    from fire.decorators import SetParseFn

    # Fire guesses types; here every value arrives as the word it is and `config.py` reads it.
    try:
        with console.timed(command):
            fire.Fire({command: SetParseFn(str)(COMMANDS[command])}, command=words, name="main.py")
    except UnknownFlag as error:
        if owners := help.owners(error.name, COMMANDS):
            same = error.name == snake_case(error.given)
            called = "" if same else f"it is {flag(error.name)} here, and "
            text = f"{flag(error.given)}: no such flag of {command}; {called}it belongs to"
            raise Refused(f"{text} {' and '.join(owners)}") from None
        raise


class SurvivingStream:
    """A stream whose reader may leave (`| head`), or whose disk is full: work goes on.

    What nobody reads, or what there is no room for, is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        self._do(self.stream.write, text)

    def flush(self) -> None:
        self._do(self.stream.flush)

    def _do(self, call: "Callable[..., object]", *given: str) -> None:
        try:
            call(*given)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        except OSError:  # the next line may find room
            pass


def main() -> None:
    warnings.formatwarning = lambda message, *_: f"{message}\n"
    # before torch is imported: what it cannot do on Apple's GPU it then does on the CPU
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # `>&-`
        stream.reconfigure(errors="backslashreplace")  # file names need not be text
        setattr(sys, name, SurvivingStream(stream))
    try:
        run(sys.argv[1:])
    # of no rights or no room a traceback explains nothing
    except (Refused, OSError) as error:
        if voice := job.voice_for(error):
            console.refuse(one_line(str(error)), voice)
        if job.is_job():  # in order it would wait for one that is gone, or be aborted meanwhile
            sys.stdout.flush()
            os._exit(2)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        from gan import machine

        if not machine.is_out_of_memory(error):
            raise
        text = "out of memory; give smaller numbers, such as --gen-num or --batch-size"
        if voice := job.voice_for(job.Alone()):
            console.refuse(f"{job.where()}{one_line(sys.argv[1])}: {text}", voice)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped at once, with nothing more saved", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
