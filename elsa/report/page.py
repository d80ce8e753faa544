"""The HTML page of a report: who won, tables that sort, pictures that answer to the mouse, every run behind them.

It holds all that it needs, so that it opens from disk; the pages of single runs take the pictures' code from beside it.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from elsa.record.record import Record
from elsa.report.chart import as_script, chart, library, packed
from elsa.report.grid import Cell, Grid
from elsa.report.headline import headline
from elsa.report.picture import Picture
from elsa.report.speed import SPEED_TITLE, Speed, speed_rows
from elsa.report.style import Styles, method_style, swatch
from elsa.report.table import columns

LIBRARY = "charts.js"  # beside the page, for the pages of runs
_HEADLINES = 3  # tables that speak at the head; the others do beside themselves
_WORDS = ("method", "model", "pattern", "run", "row", "state", "set", "task", "setting", "value", "metrics")
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?", re.IGNORECASE)
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Progress:
    """Of sweeps that go on. `every`: seconds until the page is made anew. `rows`: run, state, step, loss."""

    every: int
    states: Mapping[str, int]
    rows: list[list[str]]


@dataclass
class Html:
    """A page in the making. `pages`: {run: address of its page}. `charts`: Bokeh's JSON by the id of its place."""

    pages: Mapping[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]], tall: bool = False) -> None:
        """`rows`: whole `td` elements."""
        head = "".join(
            f'<th{_class(header)} scope="col"><button type="button">{escape(header)}</button></th>'
            for header in headers
        )  # fmt: skip
        body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
        where = "scroll tall" if tall else "scroll"
        self.parts.append(
            f'<div class="{where}"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
        )

    def picture(self, picture: Picture, has_files: bool = True, is_titled: bool = True) -> None:
        """Its panels, what names its rows, and links to the PNG and SVG."""
        panels = "".join(
            f'<div class="panel">{_paragraph(panel.title)}{self.place(chart(panel, self.pages))}</div>'
            for row in picture.panels for panel in row
        )  # fmt: skip
        named = all(panel.rows_named for row in picture.panels for panel in row)
        chips = [] if named or (len(picture.series) == 1 and not has_files) else [
            f'<button type="button" aria-pressed="true" data-row="{escape(each.row)}">'
            f"{swatch(each.style, each.marked)}{escape(each.row)}</button>"
            for each in picture.series
        ]  # fmt: skip
        lines = dict.fromkeys(
            label for row in picture.panels for panel in row for label, _ in (*panel.across, *panel.up)
        )
        chips += [f"<span>{_DENSE[at % len(_DENSE)]}{escape(label)}</span>" for at, label in enumerate(lines)]
        files = [f'<a href="{quote(picture.name)}.{kind}">{kind.upper()}</a>' for kind in ("png", "svg")]
        caption = f"<figcaption>{escape(picture.title)}</figcaption>" if is_titled else ""
        self.parts.append(
            f'<figure>{caption}<div class="panels">{panels}</div>'
            f'<div class="legend">{"".join(chips)}</div>'
            + (f'<p class="files faint">{" · ".join(files)}</p>' if has_files else "")
            + "</figure>"
        )

    def place(self, item: dict[str, Any]) -> str:
        """An element that the item will be drawn in."""
        name = f"chart-{len(self.charts)}"
        self.charts[name] = item
        return f'<div class="chart" id="{name}"></div>'

    def whole(self, title: str, head: str = "", script: str = "") -> str:
        """The page. `head`: more of it. `script`: the element with the pictures' code."""
        style = (_HERE / "page.css").read_text()
        code = (_HERE / "page.js").read_text()
        return "\n".join([
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>{head}<style>\n{style}</style></head><body>",
            *self.parts,
            f'<script type="application/json" id="charts">{as_script(self.charts)}</script>',
            f"{script}<script>\n{code}</script></body></html>\n",
        ])  # fmt: skip


def _dense_swatch(dash: str) -> str:
    line = f'<path d="M-14 0H14" stroke="#808080" stroke-width="2" stroke-dasharray="{dash}"/>'
    return f'<svg class="swatch" viewBox="-15 -7 30 14" width="30" height="14" aria-hidden="true">{line}</svg>'


_DENSE = [_dense_swatch(dash) for dash in ("5 3", "1.5 2.5", "6 2 1.5 2")]


def page(
    grids: Sequence[Grid], pictures: Sequence[Picture], records: Sequence[Record], failed: Sequence[str],
    measured: Sequence[Speed] = (), *, styles: Styles, folders: Mapping[str, str] | None = None,
    pages: Mapping[str, str] | None = None, progress: Progress | None = None,
) -> str:  # fmt: skip
    """No name in a record can become HTML.

    `pictures`: one that is named as the table "perplexity_0" stands under that table, the rest below all of them.
    `failed`: a line for each run that has no record. `folders`, `pages`: {run: address of its folder and of its page}.
    """
    html, said = Html(pages or {}), [headline(grid) for grid in grids]
    spoken = [number for number, lines in enumerate(said) if lines]
    html.parts.append("<h1>elsa: report</h1>")
    _progress(html, progress)
    html.parts += [_lead(said[number]) for number in spoken[:_HEADLINES]]
    models = ", ".join(dict.fromkeys(record["model"] for record in records))
    more = len(spoken) - _HEADLINES
    rest = f"; {more} more tables say theirs below" if more > 0 else ""
    count = _runs(len({record["name"] for record in records}))
    html.parts.append(f'<p class="faint">{count} of {escape(models or "no model")}{rest}.</p>')
    left = {picture.name: picture for picture in pictures}
    kinds: dict[str, int] = {}
    for number, grid in enumerate(grids):
        _grid(html, grid, styles, said[number] if number in spoken[_HEADLINES:] else [])
        kind = "perplexity" if grid.measure == "perplexity" else "accuracy" if "zero-shot" in grid.measure else ""
        at = kinds[kind] = kinds.get(kind, -1) + 1
        if (own := left.pop(f"{kind}_{at}", None)) is not None:
            html.picture(own, is_titled=False)
    if measured:
        header, *rows = speed_rows(measured)
        html.parts.append(f"<h2>{SPEED_TITLE}</h2>")
        html.table(header, [[cell(text, name) for text, name in zip(row, header, strict=True)] for row in rows])
    if left:
        html.parts.append("<h2>Cost, size, training</h2>")
    for picture in left.values():
        html.picture(picture)
    if failed:
        html.parts += ["<h2>Failed</h2><ul>", *(f"<li>{escape(line)}</li>" for line in failed), "</ul>"]
    if records:
        _every_run(html, records, folders or {})
    refresh = f'<meta http-equiv="refresh" content="{progress.every}">' if progress else ""
    script = f'<script type="text/plain" id="library">{packed(library())}</script>'
    return html.whole("elsa: report", refresh, script)


def _progress(html: Html, progress: Progress | None) -> None:
    if progress is None:
        return
    total, done = sum(progress.states.values()), progress.states.get("done", 0)
    counts = ", ".join(f"{count} {state}" for state, count in progress.states.items() if count)
    html.parts.append(
        f'<p>The sweep goes on: {counts}. <span class="faint">Made anew every {progress.every} s.</span></p>'
        f'<progress max="{total}" value="{done}"></progress>'
    )
    if progress.rows:
        headers = ["run", "state", "step", "loss"]
        html.table(
            headers, [[cell(text, name) for text, name in zip(row, headers, strict=True)] for row in progress.rows]
        )


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _lead(lines: list[str]) -> str:
    first, *rest = map(escape, lines)
    return f'<p class="lead"><b>{first}</b>{" ".join(rest)}</p>'


def _grid(html: Html, grid: Grid, styles: Styles, said: list[str]) -> None:
    html.parts.append(f"<h2>{escape(grid.title)}</h2>")
    html.parts += [_lead(said)] if said else []
    best = {column: grid.best(column) for column in grid.columns}
    rows = [
        [
            f"<td>{swatch(styles[row])}{escape(row)}</td>",
            *(_number(grid.cells.get((row, c)), grid.text(row, c), best[c] == row) for c in grid.columns),
        ]
        for row in grid.rows
    ]
    html.table(["method", *grid.columns], rows)
    html.parts += [f'<p class="faint">{escape(note)}</p>' for note in grid.notes]


def _number(found: Cell | None, text: str, is_best: bool) -> str:
    """A cell with its runs, which sorts by its mean."""
    if found is None:
        return "<td>--</td>"
    best = ' class="best"' if is_best else ""
    return f'<td{best} data-key="{found.mean!r}" title="{escape(" ".join(found.runs))}">{escape(text)}</td>'


def cell(text: str, header: str = "") -> str:
    """A cell that sorts by the number that it begins with, or as words."""
    if header in _WORDS or not (number := _NUMBER.match(text)):
        return f"<td{_class(header)}>{escape(text)}</td>"
    return f'<td data-key="{float(number[0].replace(",", ""))!r}">{escape(text)}</td>'


def _class(header: str) -> str:
    return ' class="word"' if header in _WORDS else ""


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _every_run(html: Html, records: Sequence[Record], folders: Mapping[str, str]) -> None:
    headers, rows = columns(list(records))
    at = headers.index("method")
    html.parts.append("<h2>Every run, with its cost</h2>")
    shown = []
    for record, row in zip(records, rows, strict=True):
        name, cells = record["name"], [cell(text, header) for text, header in zip(row, headers, strict=True)]
        cells[at] = f'<td class="word">{swatch(method_style(record["method"]))}{escape(record["method"])}</td>'
        cells[at + 1 : at + 1] = [cell(record["pattern"], "pattern"), cell(str(record["seed"]), "seed")]
        own = f'<a href="{escape(html.pages[name])}">{escape(name)}</a>' if name in html.pages else escape(name)
        folder = f' · <a href="{escape(folders[name])}">folder</a>' if name in folders else ""
        shown.append([*cells, f'<td class="word run">{own}{folder}</td>'])
    html.table([*headers[: at + 1], "pattern", "seed", *headers[at + 1 :], "run"], shown, tall=True)


def address(path: Path, page_folder: Path) -> str:
    """Of a file or folder, from a page that lies in `page_folder`."""
    return quote(os.path.relpath(path.resolve(), page_folder.resolve()))
