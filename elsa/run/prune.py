"""`elsa prune`: one run. With -m a launcher starts a process for each combination (`elsa.run.sweep`)."""

from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig
from elsa.report.table import print_tables
from elsa.run.job import run_with_dense


def prune(composed: DictConfig) -> None:
    """Run one job and print its table."""
    config = plain(composed)
    run = build(PruneConfig, config)
    hub.use_mirror(run.paths.mirror)
    finished = run_with_dense(run, config)
    print_tables([each.record for each in finished])
    print(f"record {finished[-1].folder}/result.json", flush=True)
