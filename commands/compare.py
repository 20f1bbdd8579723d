"""`compare`: trains every combination of settings, and writes one page that compares them."""

import importlib.util
import os
import sys
from collections.abc import Mapping

from commands import compare_plan, flags, places, runs
from config import file_name
from gan.console import command_line
from gan.errors import Refused

FLAGS = compare_plan.FLAGS


def main(stray: tuple[str, ...], words: Mapping[str, str]) -> None:
    """Train every combination of settings; see `python main.py compare --help`."""
    plan = compare_plan.plan(stray, words)
    path = flags.page_path(plan.options.report, "compare.html")
    if path.is_dir() or (path.parent.exists() and not os.access(path.parent, os.W_OK)):
        raise Refused(f"--report={path}: cannot be written")
    if importlib.util.find_spec("matplotlib") is None:
        raise Refused("compare plots with matplotlib: pip install -r requirements.txt")
    for planned in plan.runs:
        places.check_data_path(str(planned.given.get("data_path", "")))
        places.check_files(planned.given, planned.config_file)
        runs.check_new_config(planned.given, planned.config_file)
    from commands import compare_jobs

    def command(values: Mapping[str, str]) -> str:
        again = (flags.word_of(name, text) for name, text in values.items())
        return command_line("compare", *again)

    shared = {name: ",".join(map(file_name, text.split(","))) for name, text in words.items()}
    if code := compare_jobs.run(plan, path, command(words), command(shared)):
        sys.exit(code)
