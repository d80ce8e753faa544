"""The state of a training run on disk: whole or absent, the last few kept, continued only by the very same run.

One process keeps files `step-<step>.pt` in one folder, several ranks together folders `step-<step>`
(`elsa.distributed.checkpoint`); either goes on from both. With its state on a GPU a single process goes on while the
file is written, from a copy in memory. SIGTERM and Ctrl-C save and stop, SIGUSR1 saves and goes on.
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
from threading import Thread
from typing import Any, cast

import torch

from elsa.distributed import checkpoint
from elsa.distributed.ranks import ONE, Ranks
from elsa.errors import Stopped, UserError, in_one_line
from elsa.files import folder_for_all, remove, remove_leftovers, write_atomically
from elsa.signals import heeded
from elsa.track.progress import working
from elsa.tree import with_tensors

_log = logging.getLogger(__name__)
_FORMAT = 1
_KEYS = {"step", "seconds", "fingerprint"}
_DAMAGED = (OSError, RuntimeError, ValueError, LookupError, EOFError, UnpicklingError, zipfile.BadZipFile)
_STOPPING = (signal.SIGTERM, signal.SIGINT)


class RunCheckpoints:
    """Saves every `every_minutes` (0: every step) and keeps the last `keep`.

    `fingerprint()`: flat, JSON-like facts about config, model and data. A state that was saved under other facts is
    refused. `seconds_before`: what the run had taken when the state was saved that it goes on from. `ranks`: that hold
    parts of the state, on `device`; all of them ask the same questions. `background`: whether the file is written while
    training goes on; None for where the state lies on a GPU, from which it has to be copied anyway.
    """

    def __init__(
        self,
        folder: Path,
        every_minutes: float,
        keep: int,
        fingerprint: Callable[[], dict[str, Any]],
        ranks: Ranks = ONE,
        device: str = "cpu",
        background: bool | None = None,
    ):
        self._folder, self._every, self._keep, self._fingerprint = folder, 60 * every_minutes, keep, fingerprint
        self._ranks, self._device = ranks, device
        self._background = ranks.size == 1 and (device == "cuda" if background is None else background)
        self._writing: Thread | None = None
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
        with heeded((*_STOPPING, signal.SIGUSR1), self._receive):
            try:
                yield
            finally:
                self._settle()
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
        while self._read is None and (files := self._ranks.once(self._files)):
            path = files[-1]
            try:
                with working("read the state"):
                    self._read = path, self._state_in(path)
            except UserError as error:
                self._broken.append(path)
                then = "an older one is tried" if files[:-1] else "there is no other, so training starts anew"
                _log.error("%s: no whole state (%s); %s", path, error, then)
        return self._read

    def _state_in(self, path: Path) -> dict[str, Any]:
        if path.is_dir():
            state = checkpoint.read(path, self._ranks, self._device)
            _refuse_foreign(state)
            return state
        return self._ranks.all_or_none(lambda: _state_in_file(path))

    def due(self) -> bool:
        its_time = self._ranks.first and time.monotonic() - self._saved_at >= self._every
        return self._ranks.any(self._received is not None or its_time)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state. A full disk is reported and the run goes on, its last state untouched."""
        self._settle()
        seconds = self.seconds_before + time.monotonic() - self._began
        state = state | {"format": _FORMAT, "fingerprint": self._fingerprint(), "seconds": seconds}
        if self._background:
            self._writing = Thread(target=self._write, args=(step, with_tensors(state, _copied)))
            self._writing.start()
        else:
            self._write(step, state)
        self._saved_at, self._read = time.monotonic(), None
        number = int(self._ranks.max_(torch.tensor(int(self._received or 0))))
        received, self._received = signal.Signals(number) if number else None, None
        if received in _STOPPING:
            self._settle()
            raise Stopped(
                received, f"stopped by {received.name} after step {step}; the same command goes on from there"
            )

    def _write(self, step: int, state: dict[str, Any]) -> None:
        alone = self._ranks.size == 1
        path = self._folder / f"step-{step:08d}{'.pt' if alone else ''}"
        try:
            self._ranks.once(self._clear)
            self._broken.clear()
            if alone:
                write_atomically(path, lambda temporary: torch.save(state, temporary))
            else:
                self._write_together(path, state)
            self._ranks.once(self._remove_old)
        except (OSError, RuntimeError, UserError) as error:  # torch reports a full disk as RuntimeError
            _log.error("%s could not be saved: %s", path, in_one_line(error, 200))

    def _settle(self) -> None:
        """Wait until what is being written is on disk."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _clear(self) -> None:
        """Remove what killed processes left, and what is broken."""
        remove_leftovers(self._folder)
        for path in self._broken:
            remove(path)

    def _remove_old(self) -> None:
        for old in self._files()[: -self._keep]:
            remove(old)

    def _write_together(self, path: Path, state: dict[str, Any]) -> None:
        with folder_for_all(path, self._ranks.once) as temporary:
            checkpoint.write(temporary, state, self._ranks)

    def kept(self) -> str:
        """Where the last state lies, in words."""
        self._settle()
        return f"the last good state is {self._files()[-1]}" if self._files() else "no state was saved before"

    def discard(self) -> None:
        """Remove all states: the run needs none any more."""
        self._settle()
        self._ranks.once(self._discard)

    def _discard(self) -> None:
        for path in [*self._files(), *self._broken]:
            remove(path)
        remove_leftovers(self._folder)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _files(self) -> list[Path]:
        found = (path for path in self._folder.glob("step-*") if path not in self._broken)
        return sorted(found, key=lambda path: (path.stem, path.name))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """In CPU memory."""
    return tensor.detach().to("cpu", copy=True)


def _state_in_file(path: Path) -> dict[str, Any]:
    """Raises `UserError` if the file holds no whole state of ours. Nothing in it is executed."""
    try:
        return _read(path)
    except _DAMAGED as error:
        raise UserError(in_one_line(error, 200) or type(error).__name__) from error


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch.load reads flipped bits without a word
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    _refuse_foreign(state)
    return cast(dict[str, Any], state)


def _refuse_foreign(state: object) -> None:
    if not isinstance(state, dict) or state.get("format") != _FORMAT or not state.keys() >= _KEYS:
        raise UserError(f"not of format {_FORMAT}")
