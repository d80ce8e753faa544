"""Start the ranks of a run as processes of this machine, and end them together.

Written here because torchrun has one exit code for all failures, hides a signal's, and prints a page where one line is
wanted; the ranks themselves are started as it would start them, and can be.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from elsa.errors import LOST_RANK, RankError
from elsa.files import last_lines
from elsa.log import LAUNCHER
from elsa.signals import heeded

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_PATIENCE = 20.0  # seconds that ranks get to end by themselves when another one has failed


def launch(command: list[str], size: int, logs: Path) -> int:
    """Run `command` in `size` processes; the exit code of the first rank, or that of the one that failed before it.

    The first rank speaks to the terminal, the others into `logs`, which stays only if one of them fails. Signals go to
    all of them; a dead one ends the others.
    """
    made = [folder for folder in (logs, *logs.parents) if not folder.exists()]
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, len(os.sched_getaffinity(0)) // size)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {LAUNCHER: str(os.getpid()), "WORLD_SIZE": str(size)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    ranks = [_start(command, environment, rank, logs) for rank in range(size)]

    def forward(number: int, frame: object) -> None:
        for rank in ranks:
            rank.send_signal(number)

    try:
        with heeded(_FORWARDED, forward):
            while all(rank.poll() in (None, 0) for rank in ranks) and any(rank.poll() is None for rank in ranks):
                time.sleep(0.05)
            ended = [number for number, rank in enumerate(ranks) if rank.poll()]
            _wait(ranks)
            alone = {number: code for number, rank in enumerate(ranks) if (code := rank.poll())}  # not ended by us
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
    codes = [rank.returncode for rank in ranks]
    code = _verdict(ended, alone, logs) if any(codes) else 0
    if set(alone.values()) <= {code}:  # all have ended for the same reason
        _remove(made)
    return code


def _start(command: list[str], environment: dict[str, str], rank: int, logs: Path) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that Ctrl-C comes once: from here."""
    variables = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if rank == 0:
        return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, start_new_session=True)
    with (logs / f"{rank}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _wait(ranks: "list[subprocess.Popen[bytes]]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
        time.sleep(0.05)


def _verdict(ended: list[int], alone: dict[int, int], logs: Path) -> int:
    """The exit code that tells most, if the first rank has said why. Raises `RankError` with what another one said."""
    reasons = {number: code for number, code in alone.items() if code != LOST_RANK} or alone
    first = 0 if 0 in reasons else next((number for number in ended if number in reasons), min(reasons, default=1))
    code = reasons.get(first, LOST_RANK)
    if first == 0 and code > 0 and code != LOST_RANK:
        return code
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    said = "".join(last_lines(logs / f"{first}.log", 1)).removeprefix("elsa: ")
    raise RankError(f"rank {first} {how}{f': {said}' if said else ''}; {logs} has more, the same command goes on", code)


def _remove(folders: list[Path]) -> None:
    """What was made for the logs, the innermost first, as far as nothing else has come into it."""
    shutil.rmtree(folders[0], ignore_errors=True)
    for folder in folders[1:]:
        with suppress(OSError):
            folder.rmdir()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
