"""What all clusters share: jobs that wait in a queue of their own, and what a process there does for a run."""

import os
import subprocess
from abc import abstractmethod
from pathlib import Path

from elsa.sweep.slots import Job, Workers

_PATIENCE = 60  # seconds to save its state in


class Cluster(Workers):
    """At most `jobs_at_once` jobs in a cluster's queue. `devices`: of each of them."""

    here = False

    def __init__(self, jobs_at_once: int, devices: int):
        self.devices, self._most = devices, jobs_at_once
        self._jobs: list[Job] = []

    def free(self) -> bool:
        self._jobs = [job for job in self._jobs if job.poll() is None]
        return len(self._jobs) < self._most

    def start(self, command: list[str], environment: dict[str, str], log: Path) -> Job:
        log.parent.mkdir(parents=True, exist_ok=True)
        job = self._submit(command, environment, log.resolve(), Path.cwd())
        self._jobs.append(job)
        return job

    @abstractmethod
    def _submit(self, command: list[str], environment: dict[str, str], log: Path, where: Path) -> Job:
        """Have `execute` called with these somewhere."""


def execute(command: list[str], environment: dict[str, str], log: Path, where: Path) -> int:
    """Run the command in the folder `where`; its exit code. If this is interrupted the command is asked to stop."""
    with log.open("a") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, cwd=where, stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
