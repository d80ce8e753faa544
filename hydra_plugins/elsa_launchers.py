"""Sweeper and launchers of `elsa -m`, where Hydra looks for them.

Hydra imports this file at every start, so it imports little.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from elsa.errors import UserError
from elsa.files import remove_if_only

if TYPE_CHECKING:
    from elsa.sweep.slots import Workers

_HYDRAS = {"multirun.yaml"}  # what Hydra puts into the folder of a sweep before anything is checked


class CellSweeper(BasicSweeper):
    """Hydra's own, which composes every run once before the launcher does; here the first alone, as a sample."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """As Hydra's own; a range that never ends, or does not move, is refused."""
        for override in overrides:
            swept = override.value() if override.is_range_sweep() else None
            if isinstance(swept, RangeSweep):
                _refuse_endless(override, swept)
        return BasicSweeper.split_arguments(overrides, max_batch_size)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        try:
            super().validate_batch_is_legal(batch[:1])
        except Exception:
            assert self.config is not None, "it was set up"
            remove_if_only(Path(self.config.hydra.sweep.dir), _HYDRAS)
            raise
        print(f"{len(batch)} runs to compose and check", flush=True)


def _refuse_endless(override: Override, swept: RangeSweep) -> None:
    numbers = (swept.start, swept.stop, swept.step)
    if swept.step == 0 or not all(number is not None and math.isfinite(number) for number in numbers):
        raise UserError(f"{override.input_line}: a range from and to finite numbers in steps other than 0 is wanted")


class _ReadOnce(CachingConfigRepository):
    """Keeps what it has read for all runs of a sweep: Hydra's own copies it for each of them, and reads again."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_ReadOnce":
        return self


class _ProcessLauncher(Launcher):
    """A process for each run, whichever `elsa.run.sweep` starts it with."""

    def __init__(self, retry_out_of_memory: bool):
        self._retry = retry_out_of_memory

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises `UserError` for any command but prune: it would start the runs that it was to look at."""
        command = getattr(task_function, "command", "prune")
        if command != "prune":
            raise UserError(f"{command}: takes one run, not a sweep; elsa -m checks every run before it starts one")
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from elsa.run.start import load

        sweep = load("sweep").sweep
        loader = self._context.config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        loader.repository = _ReadOnce(loader.repository)  # type: ignore[assignment] # Hydra itself does so

        def compose(overrides: list[str]) -> DictConfig:
            return loader.load_sweep_config(self._config, overrides)

        folder = Path(self._config.hydra.sweep.dir)
        try:
            sweep([list(each) for each in job_overrides], compose, folder, self._workers(folder), retry=self._retry)
        except UserError:
            remove_if_only(folder, _HYDRAS)
            raise
        return []

    @abstractmethod
    def _workers(self, folder: Path) -> "Workers":
        """Where the processes run. `folder`: of the sweep."""


class SlotLauncher(_ProcessLauncher):
    """On the GPUs, or on shares of the CPU, of this machine."""

    def __init__(
        self,
        gpus: list[int] | None,
        gpus_per_job: int,
        cpu_slots: int,
        cpu_threads: int | None,
        retry_out_of_memory: bool,
    ):
        super().__init__(retry_out_of_memory)
        self._gpus, self._per_job, self._cpu_slots, self._threads = gpus, gpus_per_job, cpu_slots, cpu_threads

    def _workers(self, folder: Path) -> "Workers":
        from elsa.run.sweep import local_slots

        return local_slots(self._gpus, self._per_job, self._cpu_slots, self._threads)


class RayLauncher(_ProcessLauncher):
    """As tasks of a Ray cluster."""

    def __init__(self, retry_out_of_memory: bool, resources: DictConfig, **keys: Any):
        super().__init__(retry_out_of_memory)
        self._keys = keys | {"resources": dict(resources)}

    def _workers(self, folder: Path) -> "Workers":
        from elsa.sweep.ray import Ray, RayTasks

        return RayTasks(Ray(**self._keys))


class SlurmLauncher(_ProcessLauncher):
    """As jobs of a Slurm cluster."""

    def __init__(self, retry_out_of_memory: bool, parameters: DictConfig, **keys: Any):
        super().__init__(retry_out_of_memory)
        self._keys = keys | {"parameters": dict(parameters)}

    def _workers(self, folder: Path) -> "Workers":
        from elsa.sweep.slurm import Slurm, SlurmJobs

        return SlurmJobs(Slurm(folder=folder / "slurm", **self._keys))
