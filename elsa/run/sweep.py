"""A multirun: the cells of the sweep, a process for each that is not done, then one table and picture of all."""

import os
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import Answers, check_prune
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig
from elsa.errors import UserError, require
from elsa.files import write_atomically
from elsa.record.record import Record, evaluation_of, read_record, scored
from elsa.report.figure import perplexity_figure
from elsa.report.table import markdown_table, print_tables
from elsa.run.job import Names, dense_of
from elsa.run.plan import smaller_settings
from elsa.sweep.manifest import Cell, Manifest
from elsa.sweep.queue import Queue
from elsa.sweep.slots import Slots, Workers, cpu_slots, gpu_slots
from elsa.track.progress import progress, say

Compose = Callable[[list[str]], DictConfig]
_NAMED = 5  # failed runs in the last line


def local_slots(gpus: list[int] | None, gpus_per_job: int, cpus: int, threads: int | None) -> Workers:
    """Slots on this machine; `gpus` None: all that are visible, empty: none."""
    require(gpus_per_job >= 1, "hydra.launcher.gpus_per_job", gpus_per_job, "at least 1")
    require(cpus >= 1, "hydra.launcher.cpu_slots", cpus, "at least 1")
    require(threads is None or threads >= 1, "hydra.launcher.cpu_threads", threads, "at least 1, or null")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if gpus is not None:
        ids = [str(each) for each in gpus]
        absent = [each for each in ids if each not in here]
        require(not absent, "hydra.launcher.gpus", gpus, f"GPUs here: {', '.join(here) or 'none'}")
    else:
        ids = here if torch.cuda.device_count() else []
    if not ids:
        return Slots(cpu_slots(cpus, threads), imports=["elsa.run.forked"] if sys.platform == "linux" else [])
    enough = len(ids) >= gpus_per_job
    require(enough, "hydra.launcher.gpus_per_job", gpus_per_job, f"at most {len(ids)}, the GPUs there are")
    return Slots(gpu_slots(ids, gpus_per_job), gpus_per_job)


def sweep(job_overrides: list[list[str]], compose: Compose, folder: Path, workers: Workers, *, retry: bool) -> None:
    """Run every cell once; raise `UserError` at the end if some failed. The same sweep again does what is missing."""

    def built(overrides: list[str]) -> tuple[PruneConfig, dict[str, Any]]:
        config = _without_hydra(compose(with_devices(overrides)))
        return build(PruneConfig, config), config

    def with_devices(overrides: list[str]) -> list[str]:
        """A run shares out its work over all devices that it has, unless it says otherwise."""
        says = workers.devices == 1 or any(each.startswith("devices=") for each in overrides)
        return overrides if says else [*overrides, f"devices={workers.devices}"]

    def smaller(cell: Cell) -> list[str] | None:
        return smaller_settings(built(cell.overrides)[0]) if retry else None

    def command_of(overrides: list[str]) -> list[str]:
        return [sys.executable, "-m", "elsa", "prune", *with_devices(overrides), "hydra.mode=RUN"]

    if not job_overrides:
        raise UserError("hydra.mode=MULTIRUN: no run in this sweep; a glob matches no choice")
    cells, dense = _cells(job_overrides, built, workers.here)
    if all(cell.state == "failed" for cell in cells):
        raise UserError(f"none of {len(cells)} runs can run, so none was started")
    with Manifest(folder, cells) as manifest:
        queue = Queue(
            manifest, workers, command_of=command_of, environment={"WANDB_RUN_GROUP": folder.name},
            smaller=smaller, folder_of=lambda overrides: str(Names.of(built(overrides)[0]).folder),
        )  # fmt: skip
        os.environ.pop("WANDB_SERVICE", None)  # each process has its own
        queue.run()
    done = [cell for cell in cells if cell.state == "done"]
    asked = [(dense[cell.number], cell.evaluation) for cell in done]
    asked += [(Path(cell.folder), cell.evaluation) for cell in done]
    _compare(folder, [_record(*each) for each in dict.fromkeys(asked)])
    _refuse_failed(cells)


def _refuse_failed(cells: list[Cell]) -> None:
    failed = [str(cell) for cell in cells if cell.state == "failed"]
    if failed:
        more = f" and {len(failed) - _NAMED} more, see elsa status" if len(failed) > _NAMED else ""
        raise UserError(f"{len(failed)} of {len(cells)} runs failed: {', '.join(failed[:_NAMED])}{more}")


def _cells(
    job_overrides: list[list[str]], built: Callable[[list[str]], tuple[PruneConfig, dict[str, Any]]], here: bool
) -> tuple[list[Cell], dict[int, Path]]:
    """A cell for each run, and the folders of their dense models by the cells' numbers.

    A cell that asks for the run of an earlier one is left out, one that cannot run has failed.
    """
    cells: dict[tuple[str, str], Cell] = {}
    dense: dict[int, Path] = {}
    answers, failures = Answers(), _Failures()
    common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    for overrides in progress(job_overrides, "compose and check", unit="run"):
        number, label = len(cells), " ".join(each for each in overrides if each not in common)
        cell = Cell(number, label, overrides, f"none for {label}")
        try:
            run, config = built(overrides)
            hub.use_mirror(run.paths.mirror)
            check_prune(run, answers, here=here, slow=False)
            names = Names.of(run)
            cell.folder, cell.evaluation = str(names.folder), names.wanted
            dense[number] = Names.of(dense_of(run, config)[0]).folder
        except UserError as error:
            cell.state, cell.reason = "failed", str(error)
            failures.tell(cell)
        cells.setdefault((cell.folder, cell.evaluation), cell)
    failures.sum_up()
    return list(cells.values()), dense


class _Failures:
    """Tells of a cell that cannot run at once, and of further ones with the same reason once, by their number."""

    def __init__(self) -> None:
        self._by_reason: dict[str, list[Cell]] = {}

    def tell(self, cell: Cell) -> None:
        alike = self._by_reason.setdefault(str(cell.reason), [])
        alike.append(cell)
        if len(alike) == 1:
            say(f"elsa: failed  {cell}: {cell.reason}")

    def sum_up(self) -> None:
        for first, *rest in self._by_reason.values():
            if rest:
                say(f"elsa: failed  {len(rest)} more for the same reason as {first}")


def _without_hydra(composed: DictConfig) -> dict[str, Any]:
    config = copy(composed)
    with open_dict(config):
        del config["hydra"]
    return plain(config)


def _record(folder: Path, evaluation: str) -> Record:
    """Of a run that is done, with the scores of that evaluation."""
    record = read_record(folder)
    found = evaluation_of(record, evaluation)
    assert record is not None, f"{folder} is done"
    assert found is not None, f"{folder} is scored"
    return scored(record, found)


def _compare(folder: Path, records: list[Record]) -> None:
    if not records:
        return
    write_atomically(folder / "table.md", lambda temporary: temporary.write_text(markdown_table(records)))
    print_tables(records)
    print(f"table   {folder / 'table.md'}", flush=True)
    if any(record["perplexity"] for record in records):
        perplexity_figure(records, folder / "perplexity.png")
        print(f"picture {folder / 'perplexity.png'}", flush=True)
