"""A command that several processes share: started as many, or joined by one that was started among them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elsa.config.checks import check_devices
from elsa.config.prune import EvaluateConfig, PruneConfig, resolved_device
from elsa.distributed.launch import launch
from elsa.distributed.ranks import Ranks, join, leave, started_among


def launched(run: PruneConfig | EvaluateConfig, command: str) -> bool:
    """Whether this process has only started the command again, once for each device, and all is done.

    Ends this process if that failed.
    """
    check_devices(run)
    if run.ranks == 1 or started_among() > 1:
        return False
    logs = Path(run.paths.outputs) / "ranks" / str(os.getpid())
    code = launch([sys.executable, "-m", "elsa", command, *sys.argv[1:]], run.ranks, logs)
    if code:
        sys.exit(code)
    return True


@contextmanager
def joined(run: PruneConfig | EvaluateConfig) -> Iterator[Ranks]:
    """The ranks that this process works with, itself alone if it was started alone. If it fails it leaves at once."""
    ranks = join(resolved_device(run.device))
    yield ranks
    leave(ranks)
