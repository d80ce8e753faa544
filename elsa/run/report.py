"""`elsa report`: finished runs → tables by method and pattern with the spread over seeds, pictures, one HTML page."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from elsa.config.build import build
from elsa.config.commands import ReportConfig
from elsa.config.compose import plain
from elsa.errors import UserError
from elsa.files import content_hash, write_atomically
from elsa.record.record import Record, read_record, read_records, views
from elsa.report.figure import accuracy_figure, convergence_figure, cost_figure, grid_figure, pareto_figure
from elsa.report.grid import (
    Grid,
    accuracy_grids,
    csv_cells,
    grids,
    latex_grid,
    markdown_grid,
    row_labels,
    scored_alike,
)
from elsa.report.page import page
from elsa.sweep.manifest import read_manifest
from elsa.track.jsonl import logged

Curves = dict[str, list[tuple[str, list[dict[str, Any]]]]]


def report(composed: DictConfig) -> None:
    """Find the records, name and skip what is none, print the tables and write them."""
    run = build(ReportConfig, plain(composed))
    run.check()
    sources, failed = [], []
    for path in map(Path, run.records):
        cells = read_manifest(path)
        sources += _sources(path) if cells is None else [cell.record for cell in cells if cell.finished]
        failed += [f"{cell}: {cell.reason or cell.state}" for cell in cells or [] if not cell.finished]
    for line in failed:
        print(f"elsa: no record of {line}", file=sys.stderr)
    found = _read(sources)
    if not found:
        raise UserError(f"records={run.records}: no finished run below, that is no result.json")
    name = content_hash(sorted(record["name"] for record, _ in found))
    _write(Path(run.paths.outputs) / "reports" / name, found, failed)


def _write(folder: Path, whole: list[tuple[Record, Path | None]], failed: list[str]) -> None:
    """`whole`: records with all their evaluations; tables and pictures see each protocol by itself."""
    found = [(view, path) for record, path in whole for view in views(record)]
    records = [record for record, _ in found]
    perplexities, accuracies = grids(records), accuracy_grids(records)
    every = perplexities + accuracies
    tables = "\n".join(markdown_grid(grid) for grid in every)
    pictures = _draw(folder, perplexities, accuracies, found)
    texts = {
        "tables.md": tables, "tables.tex": "\n".join(latex_grid(grid) for grid in every), "cells.csv": csv_cells(every),
        "records.jsonl": "".join(json.dumps(record) + "\n" for record, _ in whole),
        "index.html": page(every, pictures, records, failed),
    }  # fmt: skip
    for name, text in texts.items():
        write_atomically(folder / name, partial(_write_text, text=text))
    Console(width=None if sys.stdout.isatty() else 160).print(Markdown(tables))
    print(f"{folder}: {', '.join(texts)} (cells.csv names the runs behind each number), pictures", flush=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)


def _draw(
    folder: Path, perplexities: list[Grid], accuracies: list[Grid], found: list[tuple[Record, Path | None]]
) -> list[Path]:
    """All pictures; their files."""
    pictures: list[Path] = []

    def draw(name: str, figure: Callable[..., None], *arguments: object) -> None:
        pictures.append(folder / f"{name}.png")
        figure(*arguments, pictures[-1])

    for number, grid in enumerate(perplexities):
        if grid.rows:
            draw(f"perplexity_{number}", grid_figure, grid)
    for number, grid in enumerate(accuracies):
        draw(f"accuracy_{number}", accuracy_figure, grid)
    for number, (name, _, alike) in enumerate(scored_alike([record for record, _ in found])):
        if any(record["pattern"] != "dense" for record in alike):
            draw(f"cost_{number}_{name}", cost_figure, alike, name)
        if len({record["pattern"] for record in alike}) > 1:
            draw(f"pareto_{number}_{name}", pareto_figure, alike, name)
    for model in dict.fromkeys(record["model"] for record, _ in found):
        if curves := _curves([(record, path) for record, path in found if record["model"] == model]):
            draw(f"convergence_{model}", convergence_figure, curves, f"training on {model}")
    return pictures


def _curves(found: list[tuple[Record, Path | None]]) -> Curves:
    """{pattern: [(row label, lines of metrics.jsonl)]} of the runs that trained and whose folder is there."""
    labels = row_labels([record for record, _ in found])
    curves: Curves = {}
    for record, folder in found:
        lines = [] if folder is None else logged(folder)
        if lines:
            curves.setdefault(record["pattern"], []).append((labels[record["name"]], lines))
    return curves


def _sources(path: Path) -> list[Path]:
    """The records below a folder, or the one `records.jsonl` that an earlier report wrote."""
    return [path] if path.is_file() else sorted(path.rglob("result.json"))


def _read(sources: list[Path]) -> list[tuple[Record, Path | None]]:
    """All records of the files, each with its run's folder if it lies there; what is no record is named and skipped.

    A run that is found several times counts once, as it was found last; so does one that was made again by other code,
    as it was made last.
    """
    found: dict[str, tuple[Record, Path | None]] = {}
    for source in sorted(sources, key=lambda source: source.stat().st_mtime_ns):
        try:
            folder = None if source.suffix == ".jsonl" else source.parent
            records = read_records(source) if folder is None else [read_record(folder)]
            found |= {_question(record): (record, folder) for record in records if record}
        except UserError as error:
            print(f"elsa: skipped {error}", file=sys.stderr)
    return sorted(found.values(), key=lambda each: each[0]["name"])


def _question(record: Record) -> str:
    """What two records share if one was made in place of the other."""
    if record["method"] == "checkpoint":  # no run of ours
        return str(record["name"])
    asked = ("model", "method", "pattern", "seed", "settings", "data_sha256", "coverage")
    return content_hash([[record.get(key) for key in asked], record["config"].get("model", {}).get("dtype")])
