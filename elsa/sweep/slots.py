"""Processes on this machine: a slot is one GPU, a group of GPUs, or a share of the CPU's threads; one process on each.

Written here because joblib and submitit spread local jobs over no GPUs, and Hydra leaves that to others.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol


class Job(Protocol):
    """A process at work."""

    where: str

    @property
    def seconds(self) -> float:
        """How long it has been at work."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it goes on."""

    def stop(self) -> None:
        """Ask it to save and stop."""


class StartedJob(Job):
    """Its seconds count from here, waiting in a cluster's queue included."""

    def __init__(self, where: str):
        self.where, self._began = where, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


class Workers(Protocol):
    """Where processes run. `here`: on this machine, so that what is found out about its devices holds for them.

    `devices`: how many each of them has.
    """

    here: bool
    devices: int

    def free(self) -> bool:
        """Whether another one can start now."""

    def start(self, command: list[str], environment: dict[str, str], log: Path) -> Job:
        """Run the command with these variables beside those of this process; its output goes to `log`."""


@dataclass(frozen=True)
class Slot:
    """`environment`: what makes a process see its devices and threads only, set before it imports anything."""

    name: str
    environment: dict[str, str]


def gpu_slots(ids: list[str], per_job: int) -> list[Slot]:
    """A slot for every `per_job` GPUs; what is left over stays idle."""
    groups = [ids[start : start + per_job] for start in range(0, len(ids) - per_job + 1, per_job)]
    return [Slot(f"gpu {','.join(group)}", {"CUDA_VISIBLE_DEVICES": ",".join(group)}) for group in groups]


def cpu_slots(count: int, threads: int | None) -> list[Slot]:
    """`count` slots that share the cores evenly, unless `threads` says how many each gets."""
    each = str(threads or max(1, len(os.sched_getaffinity(0)) // count))
    variables = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}
    return [Slot(f"cpu {number}", variables) for number in range(count)]


class Slots(Workers):
    """A slot is taken until its process has ended, however it ended.

    `imports`: modules that every process would import, which takes seconds. With them the processes, all of them
    `python -m ...`, fork from one that has imported these and does nothing else. Not for GPUs, whose driver a fork does
    not survive.
    """

    here = True

    def __init__(self, slots: list[Slot], devices: int = 1, imports: Sequence[str] = ()):
        self._slots, self.devices = slots, devices
        self._jobs: dict[str, Job] = {}
        self._forks = multiprocessing.get_context("forkserver") if imports else None
        if self._forks is not None:
            self._forks.set_forkserver_preload(list(imports))

    def free(self) -> bool:
        return self._free() is not None

    def _free(self) -> Slot | None:
        taken = {name for name, job in self._jobs.items() if job.poll() is None}
        return next((slot for slot in self._slots if slot.name not in taken), None)

    def start(self, command: list[str], environment: dict[str, str], log: Path) -> Job:
        slot = self._free()
        assert slot is not None, "`free` is asked first"
        variables = os.environ | environment | slot.environment
        log.parent.mkdir(parents=True, exist_ok=True)
        job: Job
        if self._forks is None:
            job = _Program(slot.name, command, variables, log)
        else:
            process = self._forks.Process(target=_run_module, args=(command, variables, log))
            job = _Fork(slot.name, process, slot.environment)
        self._jobs[slot.name] = job
        return job


class _Program(StartedJob):
    """In a session of its own, so that Ctrl-C reaches the sweep alone, which then stops its processes in good order."""

    def __init__(self, where: str, command: list[str], environment: dict[str, str], log: Path):
        super().__init__(where)
        with log.open("a") as file:
            self._process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.terminate()


class _Fork(StartedJob):
    """As a program is, so in a session of its own."""

    def __init__(self, where: str, process: ForkServerProcess, environment: dict[str, str]):
        super().__init__(where)
        self._process = process
        with _variables(environment):  # libraries read them when the first process to start has the server import them
            process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def stop(self) -> None:
        self._process.terminate()


@contextmanager
def _variables(environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= environment
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _run_module(command: list[str], environment: dict[str, str], log: Path) -> None:
    """What `python -m module arguments...` would do, in a fork: it has neither variables nor output of its own yet."""
    import torch  # late: clusters import this file too, in processes that only start others

    _, _, module, *arguments = command
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the default, as in a program; a fork is given its server's
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ |= environment
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # the server's may be those of an earlier sweep
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
