"""`elsa report`: finished runs → tables by method and pattern with the spread over seeds, pictures, one HTML page."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import TypeAdapter
from rich.markdown import Markdown

from elsa.config.build import build
from elsa.config.commands import ReportConfig
from elsa.config.compose import plain
from elsa.errors import UserError
from elsa.files import check_writable, content_hash, file_name, json_ready, write_text
from elsa.record.record import Record, read_record, read_records, scored, views
from elsa.report.figure import (
    accuracy_figure,
    convergence_figure,
    cost_figure,
    deployment_figure,
    drawable,
    grid_figure,
    pareto_figure,
)
from elsa.report.grid import (
    Grid,
    accuracy_grids,
    csv_cells,
    generation_grids,
    grids,
    latex_grid,
    markdown_grid,
    row_labels,
    scored_alike,
)
from elsa.report.page import page
from elsa.report.speed import Speed, bench_lines, benches_beside, read_benches, speed_table, speeds
from elsa.report.table import console
from elsa.sweep.manifest import Cell, read_manifest
from elsa.track.jsonl import logged

Curves = dict[str, list[tuple[str, list[dict[str, float]]]]]
_LINES = TypeAdapter(list[dict[str, float]])


def report(composed: DictConfig) -> None:
    """Find the records, name and skip what is none, print the tables and write them."""
    run = build(ReportConfig, plain(composed))
    run.check()
    check_writable("paths.outputs", Path(run.paths.outputs))
    sources, failed = [], []
    for path in map(Path, run.records):
        cells = read_manifest(path)
        sources += _sources(path) if cells is None else [cell.record for cell in cells if cell.finished]
        failed += [f"{cell}: {_reason(cell)}" for cell in cells or [] if not cell.finished]
    for line in failed:
        print(f"elsa: no record of {line}", file=sys.stderr)
    found = _read(sources)
    benches = _benches(sources)
    if not found:
        raise UserError(f"records={run.records}: no finished run below, that is no result.json")
    name = content_hash(sorted(record["name"] for record, _ in found))
    _write(Path(run.paths.outputs) / "reports" / name, found, failed, benches)


def _reason(cell: Cell) -> str:
    """Why a run of a sweep has no record."""
    try:
        read_record(cell.record.parent)
    except UserError as error:
        return str(error)
    return cell.reason or cell.state


def _write(
    folder: Path, whole: list[tuple[Record, Path | None]], failed: list[str], benches: Sequence[dict[str, Any]] = ()
) -> None:
    """`whole`: records with all their evaluations; tables and pictures see each protocol by itself."""
    found = [(view, path) for record, path in whole for view in views(record)]
    records = [record for record, _ in found]
    perplexities, accuracies = grids(records), accuracy_grids(records)
    every = perplexities + accuracies + generation_grids(records)
    measured = speeds([scored(record, record["evaluations"][0]) for record, _ in whole], benches)
    tables = "\n".join([*(markdown_grid(grid) for grid in every), *([speed_table(measured)] if measured else [])])
    pictures = _draw(folder, perplexities, accuracies, found) + _draw_speeds(folder, measured)
    texts = {
        "tables.md": tables, "tables.tex": "\n".join(latex_grid(grid) for grid in every), "cells.csv": csv_cells(every),
        "records.jsonl": "".join(json.dumps(json_ready(record)) + "\n" for record, _ in whole),
        "index.html": page(every, pictures, records, failed, measured),
    }  # fmt: skip
    if measured:
        texts["benches.jsonl"] = bench_lines(benches)
    for name, text in texts.items():
        write_text(folder / name, text)
    console(160).print(Markdown(tables))
    print(f"{folder}: {', '.join(texts)} (cells.csv names the runs behind each number), pictures", flush=True)


def _draw(
    folder: Path, perplexities: list[Grid], accuracies: list[Grid], found: list[tuple[Record, Path | None]]
) -> list[Path]:
    """All pictures; their files."""
    pictures: list[Path] = []

    def draw(name: str, figure: Callable[..., None], *arguments: object) -> None:
        pictures.append(folder / f"{file_name(name)}.png")
        figure(*arguments, pictures[-1])

    for number, grid in enumerate(perplexities):
        if grid.rows:
            draw(f"perplexity_{number}", grid_figure, grid)
    for number, grid in enumerate(accuracies):
        draw(f"accuracy_{number}", accuracy_figure, grid)
    for number, (name, _, group) in enumerate(scored_alike([record for record, _ in found])):
        alike = drawable(group, name)
        if any(record["pattern"] != "dense" for record in alike):
            draw(f"cost_{number}_{name}", cost_figure, alike, name)
        if len({record["pattern"] for record in alike}) > 1:
            draw(f"pareto_{number}_{name}", pareto_figure, alike, name)
    for number, model in enumerate(dict.fromkeys(record["model"] for record, _ in found)):
        if curves := _curves([(record, path) for record, path in found if record["model"] == model]):
            draw(f"convergence_{number}_{model}", convergence_figure, curves, f"training on {model}")
    return pictures


def _draw_speeds(folder: Path, measured: list[Speed]) -> list[Path]:
    """A picture for each number of threads and batch size."""
    pictures = []
    for threads, batch in dict.fromkeys((each.threads, each.batch.batch) for each in measured):
        pictures.append(folder / f"deployment_{threads}_{batch}.png")
        deployment_figure([s for s in measured if (s.threads, s.batch.batch) == (threads, batch)], pictures[-1])
    return pictures


def _benches(sources: list[Path]) -> list[dict[str, Any]]:
    """What was measured of the runs of these records. What is broken is named and left out."""
    found: list[dict[str, Any]] = []
    for source in sources:
        some, broken = benches_beside(source) if source.suffix == ".jsonl" else read_benches(source.parent)
        found += some
        for line in broken:
            print(f"elsa: {line}", file=sys.stderr)
    return found


def _curves(found: list[tuple[Record, Path | None]]) -> Curves:
    """{pattern: [(row label, lines of metrics.jsonl)]} of the runs that trained and whose folder is there."""
    labels = row_labels([record for record, _ in found])
    curves: Curves = {}
    for record, folder in found:
        lines = [] if folder is None else _training(folder)
        if lines:
            curves.setdefault(record["pattern"], []).append((labels[record["name"]], lines))
    return curves


def _training(folder: Path) -> list[dict[str, float]]:
    """What a run has logged at its steps. A file that is broken is named and left out."""
    try:
        return _LINES.validate_python(logged(folder))
    except (ValueError, AttributeError, TypeError, OSError) as error:
        print(f"elsa: skipped the curve of {folder}: its metrics are broken ({type(error).__name__})", file=sys.stderr)
        return []


def _sources(path: Path) -> list[Path]:
    """The records below a folder, or the one `records.jsonl` that an earlier report wrote."""
    return [path] if path.is_file() else sorted(path.rglob("result.json"))


def _read(sources: list[Path]) -> list[tuple[Record, Path | None]]:
    """All records of the files, each with its run's folder if it lies there.

    What is no record is named and skipped where it was found in a folder. Raises `UserError` for a file of records
    that is broken, for it was asked for by name. A run that is found several times counts once, as it was found last;
    so does one that was made again by other code, as it was made last.
    """
    found: dict[str, tuple[Record, Path | None]] = {}
    for source in sorted(sources, key=lambda source: source.lstat().st_mtime_ns):
        if source.suffix == ".jsonl":
            found |= {_question(record): (record, None) for record in read_records(source)}
        elif record := _record_or_none(source.parent):
            found[_question(record)] = (record, source.parent)
    return sorted(found.values(), key=lambda each: each[0]["name"])


def _record_or_none(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except UserError as error:
        print(f"elsa: skipped {error}", file=sys.stderr)
        return None


def _question(record: Record) -> str:
    """What two records share if one was made in place of the other."""
    if record["method"] == "checkpoint":  # no run of ours
        return str(record["name"])
    asked = ("model", "method", "pattern", "seed", "settings", "data_sha256", "coverage")
    return content_hash([[record.get(key) for key in asked], record["config"].get("model", {}).get("dtype")])
