"""Runs of `elsa` in processes that fork from this one, which has imported everything: a fraction of a second each."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "200"}

from elsa.run.cli import COMMANDS, main
from elsa.run.start import load, quiet

quiet("prune")
for name in (*COMMANDS, "sweep"):
    load(name)


def start(
    arguments: list[str], folder: Path, environment: dict[str, str | None], first: Callable[[], object] = lambda: None
) -> int:
    """The number of a process that runs `elsa <arguments>` in `folder`; what it prints goes to `_out` and `_err` there.

    `environment`: variables, None for one that is taken away. `first`: is called in the process before all else.
    """
    process = os.fork()
    if process:
        return process
    os.chdir(folder)
    for number, name in ((1, "_out"), (2, "_err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    for name, value in environment.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    sys.argv = ["elsa", *arguments]
    code = 1
    try:
        first()
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def said(folder: Path) -> list[str]:
    """The lines on stderr of the last process that ran in `folder`."""
    return [line for line in (folder / "_err").read_text(errors="replace").splitlines() if line.strip()]
