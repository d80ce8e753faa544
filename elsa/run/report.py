"""`elsa report`: finished runs → tables by method and pattern with the spread over seeds, pictures, one HTML page."""

import json
import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from elsa.config.compose import plain
from elsa.config.schema import ReportConfig, build
from elsa.errors import UserError
from elsa.files import content_hash, write_atomically
from elsa.report.figure import cost_figure, grid_figure
from elsa.report.grid import csv_cells, grids, latex_grid, markdown_grid
from elsa.report.page import page
from elsa.report.record import read_record, read_records
from elsa.sweep.manifest import read_manifest


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
    records = _read(sources)
    if not records:
        raise UserError(f"records={run.records}: no finished run below, that is no result.json")
    _write(Path(run.paths.outputs) / "reports" / content_hash(sorted(r["name"] for r in records)), records, failed)


def _write(folder: Path, records: list[dict], failed: list[str]) -> None:
    found = grids(records)
    tables = "\n".join(markdown_grid(grid) for grid in found)
    pictures = [folder / f"perplexity_{number}.png" for number in range(len(found))]
    for grid, path in zip(found, pictures, strict=True):
        grid_figure(grid, path)
    for name in dict.fromkeys(name for record in records for name in record["perplexity"]):
        pictures.append(folder / f"cost_{name}.png")
        cost_figure([record for record in records if name in record["perplexity"]], name, pictures[-1])
    texts = {
        "tables.md": tables, "tables.tex": "\n".join(latex_grid(grid) for grid in found), "cells.csv": csv_cells(found),
        "records.jsonl": "".join(json.dumps(record) + "\n" for record in records),
        "index.html": page(found, pictures, records, failed),
    }  # fmt: skip
    for name, text in texts.items():
        write_atomically(folder / name, lambda temporary, text=text: temporary.write_text(text))
    Console(width=None if sys.stdout.isatty() else 160).print(Markdown(tables))
    print(f"{folder}: {', '.join(texts)} (cells.csv names the runs behind each number), pictures", flush=True)


def _sources(path: Path) -> list[Path]:
    """The records below a folder, or the one `records.jsonl` that an earlier report wrote."""
    return [path] if path.is_file() else sorted(path.rglob("result.json"))


def _read(sources: list[Path]) -> list[dict]:
    """All records of the files; a file that is no record is named and skipped."""
    records = []
    for source in sources:
        try:
            records += read_records(source) if source.suffix == ".jsonl" else [read_record(source.parent)]
        except UserError as error:
            print(f"elsa: skipped {error}", file=sys.stderr)
    return records
