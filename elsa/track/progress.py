"""A progress bar with the time left, on standard error, for whatever takes longer than a moment."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from elsa.log import is_first

T = TypeVar("T")


def progress(iterable: Iterable[T], description: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """Wrap `iterable` in a bar that appears after two seconds; without a terminal it prints a line every 15 s.

    Of several ranks the first alone shows one.
    """
    terminal = sys.stderr.isatty()
    if not is_first():
        return iterable
    bar: Iterable[T] = tqdm(
        iterable, desc=description, total=total, unit=unit, delay=2, leave=False,
        mininterval=0.2 if terminal else 15, ascii=not terminal, dynamic_ncols=terminal,
    )  # fmt: skip
    return bar


def say(line: str) -> None:
    """A line on standard error, above the bar where one is drawn."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
