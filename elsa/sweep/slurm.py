"""Processes on a Slurm cluster, a job each, by submitit; its local executor runs the same code without a cluster."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elsa.distributed.ranks import meeting_place
from elsa.errors import require
from elsa.sweep.remote import Cluster, execute
from elsa.sweep.slots import Job, StartedJob

if TYPE_CHECKING:
    import submitit


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What every job asks for. `cluster`: "slurm", or "local" to try it out. `gpus`: of each of its `nodes`; a run is
    shared by as many processes as there are GPUs. `parameters`: further ones of submitit.
    """

    cluster: str
    folder: Path
    jobs_at_once: int
    minutes: int
    nodes: int
    gpus: int
    cpus: int
    memory_gib: int
    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        installed = importlib.util.find_spec("submitit") is not None
        require(installed, "hydra/launcher", "slurm", "submitit is not installed; run: pip install elsa[slurm]")
        for key in ("jobs_at_once", "nodes"):
            require(getattr(self, key) >= 1, f"hydra.launcher.{key}", getattr(self, key), "at least 1")
        shared = self.nodes == 1 or self.gpus >= 1
        require(shared, "hydra.launcher.gpus", self.gpus, f"at least 1 on each of the {self.nodes} nodes")


class SlurmJobs(Cluster):
    """Jobs in Slurm's queue."""

    def __init__(self, slurm: Slurm):
        import submitit  # an optional extra

        super().__init__(slurm.jobs_at_once, slurm.nodes * max(1, slurm.gpus))
        self._executor = submitit.AutoExecutor(folder=slurm.folder, cluster=slurm.cluster)
        self._executor.update_parameters(
            name="elsa", timeout_min=slurm.minutes, nodes=slurm.nodes, tasks_per_node=1, gpus_per_node=slurm.gpus,
            cpus_per_task=slurm.cpus, mem_gb=slurm.memory_gib, **slurm.parameters,
        )  # fmt: skip
        self._shape = slurm.nodes, slurm.gpus

    def _submit(self, command: list[str], environment: dict[str, str], log: Path, where: Path) -> Job:
        return _Submitted(self._executor.submit(_on_node, command, environment, log, where, self._shape))


class _Submitted(StartedJob):
    def __init__(self, job: "submitit.Job[int]"):
        super().__init__(f"job {job.job_id}")
        self._job = job

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        return 1 if self._job.exception() is not None else self._job.result()

    def stop(self) -> None:
        self._job.cancel()


def _on_node(command: list[str], environment: dict[str, str], log: Path, where: Path, shape: tuple[int, int]) -> int:
    """On each node: the command's exit code. Slurm's own signals reach the command, which saves its state.

    `shape`: nodes and GPUs on each. On several nodes torchrun starts the processes and lets them find each other; its
    output on the first node is the run's.
    """
    nodes, gpus = shape
    if nodes == 1:
        return execute(command, environment, log, where)
    number = int(os.environ["SLURM_NODEID"])
    its_log = log if number == 0 else log.with_suffix(f".{number}.log")
    return execute(_torchrun(command, nodes, gpus), environment, its_log, where)


def _torchrun(command: list[str], nodes: int, gpus: int) -> list[str]:
    """The command as torchrun starts it on each node of this job."""
    host, port = meeting_place(os.environ["SLURM_JOB_NODELIST"])
    job = os.environ["SLURM_JOB_ID"]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{port}", f"--rdzv-id={job}", "--max-restarts=0"]
    assert command[0] == sys.executable, "a run is this Python's"
    shape = [f"--nnodes={nodes}", f"--nproc-per-node={gpus}"]
    return [command[0], "-m", "torch.distributed.run", *shape, *meeting, *command[1:]]
