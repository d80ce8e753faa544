"""`elsa prune`: one run, or with -m one run per combination."""

import dataclasses
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from elsa import hub
from elsa.config.compose import plain
from elsa.config.schema import PruneConfig, build
from elsa.report.record import read_record
from elsa.report.table import print_tables
from elsa.run.job import run_with_dense


def prune(composed: DictConfig) -> list[str]:
    """Run one job; its folders go to whoever compares the jobs of a multirun, which prints one table of all."""
    config = plain(composed)
    hydra = HydraConfig.get()
    run = build(PruneConfig, config)
    hub.use_mirror(run.paths.mirror)
    if hydra.mode == RunMode.MULTIRUN:
        chosen = hydra.runtime.choices
        group = chosen.get("sweep") or chosen.get("experiment") or Path(hydra.sweep.dir).name
        run = dataclasses.replace(run, tracker=run.tracker.in_group(group))
    folders = run_with_dense(run, config)
    if hydra.mode == RunMode.RUN:
        print_tables([read_record(folder) for folder in folders])
        print(f"record {folders[-1]}/result.json", flush=True)
    return [str(folder) for folder in folders]
