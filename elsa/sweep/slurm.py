"""Processes on a Slurm cluster, a job each, by submitit; its local executor runs the same code without a cluster."""

import importlib.util
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elsa.errors import require
from elsa.sweep.slots import Job, Workers

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What every job asks for. `cluster`: "slurm", or "local" to try it out. `parameters`: further ones of submitit."""

    cluster: str
    folder: Path
    jobs_at_once: int
    minutes: int
    gpus: int
    cpus: int
    memory_gib: int
    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        installed = importlib.util.find_spec("submitit") is not None
        require(installed, "hydra/launcher", "slurm", "submitit is not installed; run: pip install elsa[slurm]")
        require(self.jobs_at_once >= 1, "hydra.launcher.jobs_at_once", self.jobs_at_once, "at least 1")


class SlurmJobs(Workers):
    """At most `jobs_at_once` jobs in the cluster's queue."""

    here = False

    def __init__(self, slurm: Slurm):
        import submitit  # an optional extra

        self._executor = submitit.AutoExecutor(folder=slurm.folder, cluster=slurm.cluster)
        self._executor.update_parameters(
            name="elsa", timeout_min=slurm.minutes, gpus_per_node=slurm.gpus, cpus_per_task=slurm.cpus,
            mem_gb=slurm.memory_gib, **slurm.parameters,
        )  # fmt: skip
        self._most = slurm.jobs_at_once
        self._jobs: list[_Submitted] = []

    def free(self) -> bool:
        self._jobs = [job for job in self._jobs if job.poll() is None]
        return len(self._jobs) < self._most

    def start(self, command: list[str], environment: dict[str, str], log: Path) -> Job:
        log.parent.mkdir(parents=True, exist_ok=True)
        job = _Submitted(self._executor.submit(_execute, command, environment, log.resolve(), Path.cwd()))
        self._jobs.append(job)
        return job


class _Submitted(Job):
    def __init__(self, job: "submitit.Job[int]"):
        self._job, self._began = job, time.monotonic()
        self.where = f"job {job.job_id}"

    @property
    def seconds(self) -> float:
        """Waiting in the cluster's queue included."""
        return time.monotonic() - self._began

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        return 1 if self._job.exception() is not None else self._job.result()

    def stop(self) -> None:
        self._job.cancel()


def _execute(command: list[str], environment: dict[str, str], log: Path, where: Path) -> int:
    """On the node: the command's exit code. Slurm's own signals reach the command, which saves its state."""
    with log.open("a") as file:
        return subprocess.run(
            command, env=os.environ | environment, cwd=where, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
