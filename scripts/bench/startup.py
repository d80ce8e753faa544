"""CPU seconds (user and system, children included) of the small things, each beside its limit.

python scripts/bench/startup.py [--times 5] [--no-sweep]

Each command runs `--times` times, the sweep once, and the least counts. The sweep is the paper's grid of 270 runs on an
empty cache: where the hub cannot be reached, every run fails its checks, and the time is that of composing and checking
all of them. Where it can, it would begin to work: use --no-sweep there.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

ELSA = [sys.executable, "-m", "elsa.run.cli"]
SMALL = {
    "import elsa": ([sys.executable, "-c", "import elsa"], 0.1),
    "elsa --help": ([*ELSA, "--help"], 0.3),
    "elsa method=wnda": ([*ELSA, "method=wnda"], 1.5),
    "elsa training.stps=3": ([*ELSA, "training.stps=3"], 1.5),
    "elsa --cfg job": ([*ELSA, "--cfg", "job"], 2.0),
    "elsa status": ([*ELSA, "status"], 1.0),
}
SWEEP = [*ELSA, "sweep=paper_ppl"]


def cpu_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def least(command: list[str], times: int) -> float:
    found = []
    for _ in range(times):
        before = cpu_seconds()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        found.append(cpu_seconds() - before)
    return min(found)


def sweep() -> tuple[float, float]:
    """Seconds by the clock to the first line, and CPU seconds until all runs are composed and checked."""
    before, began = cpu_seconds(), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(SWEEP, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        first = time.monotonic() - began
        process.communicate()
    return first, cpu_seconds() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--no-sweep", action="store_true")
    options = parser.parse_args()
    rows = [(name, least(command, options.times), limit) for name, (command, limit) in SMALL.items()]
    if not options.no_sweep:
        first, every = sweep()
        rows += [("elsa sweep=paper_ppl, first line (by the clock)", first, 5.0)]
        rows += [("elsa sweep=paper_ppl, 270 runs composed and checked", every, 30.0)]
    table = Table()
    for header in ("", "seconds", "limit", "within"):
        table.add_column(header, justify="left" if not header else "right")
    for name, seconds, limit in rows:
        table.add_row(name, f"{seconds:.2f}", f"{limit:g}", "yes" if seconds <= limit else "NO")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
