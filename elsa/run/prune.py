"""`elsa prune`: one run, on one device or several. With -m a launcher starts a process for each combination
(`elsa.run.sweep`).
"""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import check_devices
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig, resolved_device
from elsa.distributed.launch import launch
from elsa.distributed.ranks import join, leave, started_among
from elsa.report.table import print_tables
from elsa.run.job import run_with_dense


def prune(composed: DictConfig) -> None:
    """Run one job and print its table."""
    config = plain(composed)
    run = build(PruneConfig, config)
    hub.use_mirror(run.paths.mirror)
    if run.ranks > 1 and started_among() == 1:
        _launch(run)
        return
    ranks = join(resolved_device(run.device))
    finished = run_with_dense(run, config, ranks)
    if ranks.first:
        print_tables([each.record for each in finished])
        print(f"record {finished[-1].folder}/result.json", flush=True)
    leave(ranks)


def _launch(run: PruneConfig) -> None:
    """This very command again, once for each device."""
    check_devices(run)
    code = launch(
        [sys.executable, "-m", "elsa", "prune", *sys.argv[1:]],
        run.ranks,
        Path(run.paths.outputs) / "ranks" / str(os.getpid()),
    )
    if code:
        sys.exit(code)
