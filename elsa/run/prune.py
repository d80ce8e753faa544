"""`elsa prune`: one run, on one device or several. With -m a launcher starts a process for each combination
(`elsa.run.sweep`).
"""

from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig
from elsa.report.table import print_tables
from elsa.run.job import run_with_dense
from elsa.run.shared import joined, launched


def prune(composed: DictConfig) -> None:
    """Run one job and print its table."""
    config = plain(composed)
    run = build(PruneConfig, config)
    hub.use_mirror(run.paths.mirror)
    if launched(run, "prune"):
        return
    with joined(run) as ranks:
        finished = run_with_dense(run, config, ranks)
        if ranks.first:
            print_tables([each.record for each in finished])
            print(f"record {finished[-1].folder}/result.json", flush=True)
