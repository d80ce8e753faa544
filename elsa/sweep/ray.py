"""Processes on a Ray cluster, a task each: for clusters without Slurm, or several machines of one's own.

All machines see the same folders, as with Slurm. Written here because Hydra's own Ray launcher pins an old cloudpickle
and knows no manifest; Ray itself is asked for three things: start a task, look whether it has ended, cancel it.
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elsa.errors import UserError, in_one_line, require
from elsa.sweep.remote import Cluster, execute
from elsa.sweep.slots import Job, StartedJob


@dataclass(frozen=True, kw_only=True)
class Ray:
    """What every task asks for. `address`: of a cluster, "auto" for the one here, null to start one on this machine.

    `resources`: further ones by Ray's name, for example {"accelerator_type:H100": 0.001}.
    """

    address: str | None
    jobs_at_once: int
    gpus: int
    cpus: int
    resources: dict[str, float]

    def __post_init__(self) -> None:
        installed = importlib.util.find_spec("ray") is not None
        require(installed, "hydra/launcher", "ray", "ray is not installed; run: pip install elsa[ray]")
        for key in ("jobs_at_once", "cpus"):
            require(getattr(self, key) >= 1, f"hydra.launcher.{key}", getattr(self, key), "at least 1")
        require(self.gpus >= 0, "hydra.launcher.gpus", self.gpus, "a number of GPUs, or 0")


class RayTasks(Cluster):
    """Tasks, which Ray lets wait until what they ask for is free."""

    def __init__(self, wanted: Ray):
        import ray  # an optional extra, and slow to import

        super().__init__(wanted.jobs_at_once, max(1, wanted.gpus))
        try:
            ray.init(address=wanted.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UserError(
                f"hydra.launcher.address={wanted.address}: no Ray cluster that lets this process in "
                f"({in_one_line(error, 100)}); `ray start` has printed its address, RAY_AUTH_MODE=token may be wanted"
            ) from error
        self._refuse_too_much(wanted, ray.cluster_resources())  # type: ignore[no-untyped-call]
        task = ray.remote(execute)
        self._task = task.options(num_cpus=wanted.cpus, num_gpus=wanted.gpus, resources=wanted.resources, max_retries=0)

    @staticmethod
    def _refuse_too_much(wanted: Ray, there: dict[str, float]) -> None:
        """A task that asks for more than the cluster has would wait for ever."""
        asked = {"CPU": wanted.cpus, "GPU": wanted.gpus, **wanted.resources}
        keys = {"CPU": "cpus", "GPU": "gpus"}
        for name, count in asked.items():
            key = keys.get(name, f"resources.{name}")
            most = there.get(name, 0)
            require(count <= most, f"hydra.launcher.{key}", count, f"the cluster has {most:g} in all")

    def _submit(self, command: list[str], environment: dict[str, str], log: Path, where: Path) -> Job:
        return _Task(self._task.remote(command, environment, log, where))


class _Task(StartedJob):
    def __init__(self, reference: Any):
        super().__init__(f"task {reference.task_id().hex()[:8]}")
        self._reference = reference

    def poll(self) -> int | None:
        import ray

        ended, _ = ray.wait([self._reference], timeout=0)
        if not ended:
            return None
        try:
            return int(ray.get(self._reference))
        except ray.exceptions.RayError:  # cancelled, or its machine has gone
            return 1

    def stop(self) -> None:
        import ray

        ray.cancel(self._reference)
