"""`elsa status`: the runs of a sweep, as its manifest and the runs' own metrics have them."""

import sys
import time
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.table import Table

from elsa.config.build import build
from elsa.config.commands import StatusConfig
from elsa.config.compose import plain
from elsa.errors import require
from elsa.files import read_json
from elsa.sweep.manifest import STATES, Cell, is_running, read_manifest
from elsa.track.jsonl import logged

_REFRESH = 2  # seconds


def status(composed: DictConfig) -> None:
    """Print the table; on a terminal keep it up to date while the sweep goes on."""
    run = build(StatusConfig, plain(composed))
    folder = _chosen(Path(run.paths.outputs) / "sweeps", run.sweep)
    if not sys.stdout.isatty():
        Console(width=160, markup=False).print(_table(folder))
        return
    with Live(_table(folder), console=Console(markup=False), auto_refresh=False) as live:
        while is_running(folder):
            time.sleep(_REFRESH)
            live.update(_table(folder), refresh=True)


def _chosen(sweeps: Path, name: str | None) -> Path:
    folders = sorted(path.parent for path in sweeps.glob("*/manifest.json"))
    require(bool(folders), "paths.outputs", sweeps.parent, "no sweep was started there; elsa -m starts one")
    named = [folder for folder in folders if folder.name.startswith(name or "")]
    require(bool(named), "sweep", name, f"no such sweep; there are {', '.join(folder.name for folder in folders)}")
    return max(named, key=lambda folder: (folder / "manifest.json").stat().st_mtime)


def _table(folder: Path) -> Table:
    cells, going_on = read_manifest(folder) or [], is_running(folder)
    counts = Counter(cell.state for cell in cells)
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    ended = "" if going_on or not counts["waiting"] + counts["running"] else "; interrupted, the same command goes on"
    table = Table(title=f"{folder}: {summary}{ended}")
    for header in ("run", "state", "where", "started", "seconds", "step", "folder or reason"):
        table.add_column(header, justify="right" if header in ("started", "seconds", "step") else "left")
    for cell in cells:
        state = "interrupted" if cell.state == "running" and not going_on else cell.state
        seconds = "--" if cell.seconds is None else f"{cell.seconds:,.0f}"
        step = _step(cell) if state == "running" else ""
        rest = cell.reason or Path(cell.folder).name
        table.add_row(str(cell), state, cell.where or "", str(cell.attempts), seconds, step, rest)
    return table


def _step(cell: Cell) -> str:
    """The optimiser's step that a run in training has reached, of how many; nothing if its files do not tell."""
    folder = Path(cell.folder)
    try:
        lines, config = logged(folder), read_json(folder / "config.json")
        return f"{lines[-1]['step']:,} of {config['training']['steps']:,}" if lines and config else ""
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
