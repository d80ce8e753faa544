"""A progress bar with the time left, on standard error, for whatever takes longer than a moment."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from elsa.log import is_first

T = TypeVar("T")
_DELAY = 2.0  # seconds before anything is shown
_ON_TERMINAL, _ELSEWHERE = 0.5, 15.0  # seconds between two looks at what goes on


def progress(
    iterable: Iterable[T], description: str, total: int | None = None, unit: str = "it", *, clock: bool = True
) -> Iterable[T]:
    """Wrap `iterable` in a bar that appears after two seconds; without a terminal it prints a line every 15 s.

    `clock`: whether its time goes on while an item takes long, for which a thread wakes up now and then. Of several
    ranks the first alone shows one.
    """
    return _shown(iterable, clock, desc=description, total=total, unit=unit) if is_first() else iterable


@contextmanager
def working(description: str) -> Iterator[None]:
    """The same around something that cannot be counted: how long it has taken so far."""
    if not is_first():
        yield
        return
    with _bar(None, True, desc=description, bar_format="{desc}: {elapsed}"):
        yield


def say(line: str) -> None:
    """A line on standard error, above the bar where one is drawn."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)


def _shown(iterable: Iterable[T], clock: bool, **options: Any) -> Iterator[T]:
    with _bar(iterable, clock, **options) as bar:
        yield from bar


@contextmanager
def _bar(iterable: Iterable[T] | None, clock: bool, **options: Any) -> Iterator[Iterable[T]]:
    terminal, ended = sys.stderr.isatty(), Event()
    pause = _ON_TERMINAL if terminal else _ELSEWHERE
    bar = tqdm(
        iterable, delay=_DELAY, leave=False, mininterval=0.2 if terminal else pause, ascii=not terminal,
        dynamic_ncols=terminal, file=sys.stderr if terminal else _Lines(sys.stderr), **options,
    )  # fmt: skip
    beat = Thread(target=_beat, args=(bar, ended, pause), daemon=True)
    if clock:
        beat.start()
    try:
        yield bar
    finally:
        ended.set()
        if clock:
            beat.join()
        bar.close()


def _beat(bar: Any, ended: Event, pause: float) -> None:
    """Draw the bar anew every `pause` seconds in which it was not."""
    seen, wait = False, max(pause, _DELAY)
    while not ended.wait(wait):
        wait = pause
        if bar._time() - bar.last_print_t >= pause:
            bar.refresh()
            seen = True
    if seen:
        bar.last_print_t = bar._time()  # or it takes itself for unseen, and leaves its line


class _Lines:
    """A stream that gets each state of a bar as a line of its own, for a log."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if state := text.strip():
            print(state, file=self._stream, flush=True)

    def flush(self) -> None:
        self._stream.flush()
