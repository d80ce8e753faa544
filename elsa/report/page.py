"""One self-contained HTML page of a report: tables, pictures, every run behind them. It opens from disk."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from elsa.record.record import Record
from elsa.report.grid import Grid
from elsa.report.speed import SPEED_TITLE, Speed, speed_rows
from elsa.report.table import columns

_STYLE = """body { font: 15px sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .3em .8em; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #ddd } img { max-width: 100% }"""


def page(
    grids: list[Grid], pictures: list[Path], records: list[Record], failed: list[str], measured: Sequence[Speed] = ()
) -> str:
    """`failed`: a line for each run that has no record. No name in a record can become HTML."""
    parts = ["<h1>elsa: report</h1>"]
    for grid in grids:
        rows = [[escape(row), *(_cell(grid, row, column) for column in grid.columns)] for row in grid.rows]
        parts += [f"<h2>{escape(grid.title)}</h2>", _table(["method", *grid.columns], rows)]
        parts += [f"<p>{escape(note)}</p>" for note in grid.notes]
    if measured:
        header, *rows = speed_rows(measured)
        parts += [f"<h2>{SPEED_TITLE}</h2>", _table(header, [[escape(cell) for cell in row] for row in rows])]
    parts += [f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{_base64(path)}">' for path in pictures]
    if failed:
        parts += ["<h2>Failed</h2><ul>", *(f"<li>{escape(line)}</li>" for line in failed), "</ul>"]
    headers, rows = columns(records)
    named = [
        [escape(each) for each in row] + [escape(record["name"])] for row, record in zip(rows, records, strict=True)
    ]
    parts += ["<h2>Every run, with its cost</h2>", _table([*headers, "run"], named)]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>elsa: report</title><style>{_STYLE}</style>'
    return head + "\n".join(parts) + "</html>\n"


def _cell(grid: Grid, row: str, column: str) -> str:
    text = grid.text(row, column)
    runs = grid.cells[row, column].runs if (row, column) in grid.cells else []
    shown = f"<b>{escape(text)}</b>" if grid.best(column) == row else escape(text)
    return f'<span title="{escape(" ".join(runs))}">{shown}</span>'


def _table(headers: list[str], rows: list[list[str]]) -> str:
    """`headers`: text. `rows`: HTML."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
