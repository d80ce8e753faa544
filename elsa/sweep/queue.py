"""Run the cells of a manifest that are not done, as many at once as there are workers."""

import logging
import signal
import time
from collections import deque
from collections.abc import Callable

from elsa.errors import OUT_OF_MEMORY, Stopped
from elsa.files import last_lines
from elsa.signals import heeded
from elsa.sweep.manifest import Cell, Manifest
from elsa.sweep.slots import Job, Workers

_log = logging.getLogger(__name__)
_LAST_LINES = 5
_PATIENCE = 60  # seconds that processes get to save their state when the sweep is stopped


class Queue:
    """`command_of(overrides)` and `folder_of(overrides)`: what runs them, and where that run lies.

    `environment`: variables of every process. `smaller(cell)`: overrides to try after out of memory, None for no retry.
    """

    def __init__(
        self,
        manifest: Manifest,
        workers: Workers,
        *,
        command_of: Callable[[list[str]], list[str]],
        environment: dict[str, str],
        smaller: Callable[[Cell], list[str] | None],
        folder_of: Callable[[list[str]], str],
    ):
        self._manifest, self._workers = manifest, workers
        self._command_of, self._environment = command_of, environment
        self._smaller, self._folder_of = smaller, folder_of
        self._running: dict[int, tuple[Cell, Job]] = {}
        self._waiting: deque[Cell] = deque()

    def run(self) -> None:
        """Until every cell is done or has failed. A signal stops the processes in good order and raises `Stopped`."""
        self._waiting = deque(cell for cell in self._manifest.cells if cell.state == "waiting")
        self._say(f"{len(self._waiting)} of {len(self._manifest.cells)} runs to do")
        with heeded((signal.SIGTERM, signal.SIGINT), _raise_stopped):
            try:
                while self._waiting or self._running:
                    while self._waiting and self._workers.free():
                        self._start(self._waiting.popleft())
                    self._look()
                    time.sleep(0.1)
            finally:
                self._stop()

    def _start(self, cell: Cell) -> None:
        log = self._manifest.log_of(cell)
        job = self._workers.start(self._command_of(cell.overrides + cell.changed), self._environment, log)
        cell.state, cell.where, cell.attempts = "running", job.where, cell.attempts + 1
        self._running[cell.number] = (cell, job)
        self._manifest.save()

    def _look(self) -> None:
        for number, (cell, job) in list(self._running.items()):
            code = job.poll()
            if code is not None:
                del self._running[number]
                self._end(cell, job, code)
                self._manifest.save()

    def _end(self, cell: Cell, job: Job, code: int) -> None:
        cell.seconds, cell.where = round(job.seconds, 1), None
        if code == 0 and cell.finished:
            cell.state, cell.reason = "done", None
            self._say(f"done    {cell}: {cell.folder} ({cell.seconds:.0f} s on {job.where})")
            return
        lines = last_lines(self._manifest.log_of(cell), _LAST_LINES)
        changed = self._smaller(cell) if code == OUT_OF_MEMORY and not cell.changed else None
        if changed:
            self._say(f"retry   {cell}: out of memory, again with {' '.join(changed)}")
            cell.state, cell.changed = "waiting", changed
            cell.folder = self._folder_of(cell.overrides + changed)
            self._waiting.appendleft(cell)
            return
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        cell.state, cell.reason = "failed", f"{ended}: {lines[-1]}" if lines else ended
        text = "".join(f"\n    {line}" for line in lines)
        _log.error("failed  %s: %s on %s, %s%s", cell, ended, job.where, self._manifest.log_of(cell), text)

    def _stop(self) -> None:
        """Ask what still runs to stop, wait for it, and leave it to the next time."""
        for _, job in self._running.values():
            job.stop()
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and any(job.poll() is None for _, job in self._running.values()):
            time.sleep(0.1)
        for cell, _ in self._running.values():
            cell.state, cell.where = "done" if cell.finished else "waiting", None

    def _say(self, text: str) -> None:
        ended = sum(cell.state in ("done", "failed") for cell in self._manifest.cells)
        _log.info("[%d/%d] %s", ended, len(self._manifest.cells), text)


def _raise_stopped(number: int, frame: object) -> None:
    raise Stopped(number, f"stopped by {signal.Signals(number).name}; the same command goes on")
