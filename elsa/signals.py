"""Signals, heeded inside a block and as before after it."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def heeded(signals: Iterable[signal.Signals], handler: Callable[[int, object], None]) -> Iterator[None]:
    """Call `handler(number, frame)` for these inside the block. Only the main thread of a process can."""
    before = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)
