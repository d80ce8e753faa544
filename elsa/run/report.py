"""`elsa report`: finished runs → a table of perplexity by method and pattern, with the spread over seeds."""

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
from elsa.report.grid import csv_cells, grids, markdown_grid
from elsa.report.record import read_record, read_records


def report(composed: DictConfig) -> None:
    """Find the records, name and skip what is none, print the tables and write them."""
    run = build(ReportConfig, plain(composed))
    run.check()
    records = [record for folder in run.records for record in _found(Path(folder))]
    if not records:
        raise UserError(f"records={run.records}: no finished run below, that is no result.json")
    found = grids(records)
    folder = Path(run.paths.outputs) / "reports" / content_hash(sorted(record["name"] for record in records))
    tables = "\n".join(markdown_grid(grid) for grid in found)
    write_atomically(folder / "tables.md", lambda temporary: temporary.write_text(tables))
    write_atomically(folder / "cells.csv", lambda temporary: temporary.write_text(csv_cells(found)))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(folder / "records.jsonl", lambda temporary: temporary.write_text(lines))
    Console(width=None if sys.stdout.isatty() else 160).print(Markdown(tables))
    print(f"{folder}: tables.md, cells.csv (with the runs behind each), records.jsonl", flush=True)


def _found(path: Path) -> list[dict]:
    """The records below a folder, or those of a `records.jsonl` that an earlier report wrote."""
    records = []
    sources = [path] if path.is_file() else sorted(path.rglob("result.json"))
    for source in sources:
        try:
            records += read_records(source) if path.is_file() else [read_record(source.parent)]
        except UserError as error:
            print(f"elsa: skipped {error}", file=sys.stderr)
    return records
