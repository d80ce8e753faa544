"""The state of a training run on disk: whole or absent, the last few kept, continued only by the very same run.

Files are `step-<step>.pt` in one folder. SIGTERM and Ctrl-C save and stop, SIGUSR1 saves and goes on.
"""

import logging
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from elsa.errors import Stopped, UserError, in_one_line
from elsa.files import remove, remove_leftovers, write_atomically

_log = logging.getLogger(__name__)
_FORMAT = 1
_KEYS = {"step", "seconds", "fingerprint"}
_DAMAGED = (OSError, RuntimeError, ValueError, LookupError, EOFError, UnpicklingError, zipfile.BadZipFile)
_STOPPING = (signal.SIGTERM, signal.SIGINT)


class RunCheckpoints:
    """Saves every `every_minutes` (0: every step) and keeps the last `keep`.

    `fingerprint()`: flat, JSON-like facts about config, model and data. A state that was saved under other facts is
    refused. `seconds_before`: what the run had taken when the state was saved that it goes on from.
    """

    def __init__(self, folder: Path, every_minutes: float, keep: int, fingerprint: Callable[[], dict[str, Any]]):
        self._folder, self._every, self._keep, self._fingerprint = folder, 60 * every_minutes, keep, fingerprint
        self._began = self._saved_at = time.monotonic()
        self.seconds_before = 0.0
        self._received: signal.Signals | None = None
        self._broken: list[Path] = []
        self._read: tuple[Path, dict[str, Any]] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Heed the signals inside the block. Only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._receive) for each in (*_STOPPING, signal.SIGUSR1)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
        if self._received in _STOPPING:  # too late to be saved by the block
            signal.raise_signal(self._received)

    def _receive(self, number: int, frame: object) -> None:
        if self._received == number == signal.SIGINT:  # asked twice: now
            raise KeyboardInterrupt
        self._received = signal.Signals(number)

    def exist(self) -> bool:
        """Whether there is a state to go on from."""
        return self._newest() is not None

    def step(self) -> int:
        """The step after which the run will go on."""
        newest = self._newest()
        return 0 if newest is None else int(newest[1]["step"])

    def latest(self) -> dict[str, Any] | None:
        """The state to go on from. Raises `UserError` if it is that of another run, naming what differs."""
        newest = self._newest()
        if newest is None:
            return None
        path, saved = newest
        self._read = None  # it is large
        now = self._fingerprint()
        differing = [key for key, value in saved["fingerprint"].items() if key in now and now[key] != value]
        if differing:
            shown = "; ".join(f"{key} was {saved['fingerprint'][key]} and is {now[key]}" for key in differing[:5])
            raise UserError(f"{path}: saved by another run ({shown}); delete {self._folder} to start again")
        self.seconds_before = saved["seconds"]
        _log.info("%s: going on after step %d", path, saved["step"])
        return saved

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest state that is whole, with its file; read once. Those that are not are named and passed over."""
        while self._read is None and self._files():
            path = self._files()[-1]
            try:
                self._read = path, _state_in(path)
            except _DAMAGED as error:
                self._broken.append(path)
                reason = in_one_line(error, 200) or type(error).__name__
                then = "an older one is tried" if self._files() else "there is no other, so training starts anew"
                _log.error("%s: no whole state (%s); %s", path, reason, then)
        return self._read

    def due(self) -> bool:
        return self._received is not None or time.monotonic() - self._saved_at >= self._every

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state. A full disk is reported and the run goes on, its last state untouched."""
        path = self._folder / f"step-{step:08d}.pt"
        seconds = self.seconds_before + time.monotonic() - self._began
        state = state | {"format": _FORMAT, "fingerprint": self._fingerprint(), "seconds": seconds}
        try:
            remove_leftovers(self._folder)
            while self._broken:
                remove(self._broken.pop())
            write_atomically(path, lambda temporary: torch.save(state, temporary))
            for old in self._files()[: -self._keep]:
                remove(old)
        except (OSError, RuntimeError, UserError) as error:  # torch reports a full disk as RuntimeError
            _log.error("%s could not be saved: %s", path, in_one_line(error, 200))
        self._saved_at, self._read = time.monotonic(), None
        received, self._received = self._received, None
        if received in _STOPPING:
            raise Stopped(
                received, f"stopped by {received.name} after step {step}; the same command goes on from there"
            )

    def kept(self) -> str:
        """Where the last state lies, in words."""
        return f"the last good state is {self._files()[-1]}" if self._files() else "no state was saved before"

    def discard(self) -> None:
        """Remove all states: the run needs none any more."""
        for path in [*self._files(), *self._broken]:
            remove(path)
        remove_leftovers(self._folder)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("step-*.pt") if path not in self._broken)


def _state_in(path: Path) -> dict[str, Any]:
    """Raises one of `_DAMAGED` if the file holds no whole state of ours. Nothing in it is executed."""
    with zipfile.ZipFile(path) as archive:  # torch.load reads flipped bits without a word
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.get("format") != _FORMAT or not state.keys() >= _KEYS:
        raise ValueError(f"not of format {_FORMAT}")
    return state
