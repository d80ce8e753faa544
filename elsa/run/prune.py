"""`elsa prune`: one run, or with -m one run per combination."""

from omegaconf import DictConfig
from rich.console import Console

from elsa.config.compose import plain
from elsa.config.schema import PruneConfig, build
from elsa.report.record import read_record
from elsa.report.table import rich_table
from elsa.run.job import run_with_dense


def prune(composed: DictConfig) -> list[str]:
    """Run one job; its folders go to whoever compares the jobs of a multirun."""
    config = plain(composed)
    folders = run_with_dense(build(PruneConfig, config), config)
    Console().print(rich_table([read_record(folder) for folder in folders]))
    print(f"record {folders[-1]}/result.json", flush=True)
    return [str(folder) for folder in folders]
