"""`elsa report`: finished runs → tables by method and pattern with the spread over seeds, pictures, one HTML page."""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.markdown import Markdown

from elsa.config.build import build
from elsa.config.commands import ReportConfig
from elsa.config.compose import plain
from elsa.errors import UserError, require
from elsa.files import check_writable, content_hash, file_name, json_ready, read_json, write_text
from elsa.record.record import Record, read_record, read_records, scored, views
from elsa.report.chart import library
from elsa.report.figure import draw
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
from elsa.report.page import LIBRARY, Progress, address, page
from elsa.report.picture import (
    Curves,
    Picture,
    accuracy_picture,
    convergence_picture,
    cost_picture,
    deployment_picture,
    drawable,
    grid_picture,
    pareto_picture,
    report_styles,
)
from elsa.report.run_page import run_page
from elsa.report.speed import Speed, bench_lines, benches_beside, read_benches, speed_table, speeds
from elsa.report.style import Styles
from elsa.report.table import console
from elsa.sweep.manifest import STATES, Cell, is_running, read_manifest
from elsa.track.jsonl import logged
from elsa.track.progress import progress as shown

_Log = tuple[list[dict[str, float]], list[str]]  # what a run has logged, and a line if its file is broken
_LINES = TypeAdapter(list[dict[str, float]])
_CHANGES = TypeAdapter(dict[int, dict[str, float]])


class _Text(BaseModel):
    text: str


class _Asked(BaseModel):
    run: str | None = None


class _Said(BaseModel):
    """What `elsa generate` keeps, as far as it is shown."""

    prompts: list[str]
    said: dict[str, list[_Text]]
    config: _Asked


def report(composed: DictConfig) -> None:
    """Find the records, name and skip what is none, print the tables and write them; `every` seconds, with a sweep."""
    run = build(ReportConfig, plain(composed))
    run.check()
    check_writable("paths.outputs", Path(run.paths.outputs))
    if run.every is None:
        _once(run)
    else:
        _watch(run, run.every)


def _once(run: ReportConfig, name: str = "") -> None:
    """All of a report, in the folder `name`, or in one that its runs name."""
    found = _find(run.records)
    for line in [*(f"no record of {each}" for each in found.failed), *found.skipped]:
        print(f"elsa: {line}", file=sys.stderr)
    if not found.records:
        raise UserError(f"records={run.records}: no finished run below, that is no result.json")
    _write(Path(run.paths.outputs), name or content_hash(sorted(record["name"] for record, _ in found.records)), found)


def _watch(run: ReportConfig, every: int) -> None:
    """Make one page anew until no sweep goes on; the last time with all that a report has."""
    sweeps = [Path(path) for path in run.records if read_manifest(Path(path)) is not None]
    require(bool(sweeps), "every", every, "records names no sweep to watch; give the folder of one")
    name, made = content_hash(sorted(str(Path(path).resolve()) for path in run.records)), set[str]()
    folder = Path(run.paths.outputs) / "reports" / name
    print(f"{folder / 'index.html'}: made anew every {every} s while the sweep goes on", flush=True)
    while any(map(is_running, sweeps)):
        found = _find(run.records)
        _make(folder, found, Path(run.paths.outputs), progress=_progress(sweeps, every), made=made)
        time.sleep(every)
    _once(run, name)


def _progress(sweeps: list[Path], every: int) -> Progress:
    cells = [cell for sweep in sweeps for cell in read_manifest(sweep) or []]
    counts = Counter("done" if cell.finished else cell.state for cell in cells)
    rows = [[str(cell), cell.state, *_reached(cell)] for cell in cells if cell.state in ("running", "failed")]
    return Progress(every, {state: counts[state] for state in STATES}, rows)


def _reached(cell: Cell) -> tuple[str, str]:
    """The step of a run and its loss there; of one that failed, why."""
    if cell.state == "failed":
        return "--", cell.reason or ""
    lines, _ = _training(Path(cell.folder))
    last = lines[-1] if lines else {}
    return f"{last['step']:,.0f}" if "step" in last else "--", f"{last['loss']:.4g}" if "loss" in last else "--"


@dataclass(frozen=True)
class _Found:
    """`records`: whole, each with its run's folder if it lies there. `failed`: runs of sweeps without one, and why.

    `skipped`: what was found and is broken. `benches`: what was measured of the runs.
    """

    records: list[tuple[Record, Path | None]]
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    benches: list[dict[str, Any]] = field(default_factory=list)


def _find(paths: list[str]) -> _Found:
    sources, failed = list[Path](), list[str]()
    for path in map(Path, paths):
        cells = read_manifest(path)
        sources += _sources(path) if cells is None else [cell.record for cell in cells if cell.finished]
        failed += [f"{cell}: {_reason(cell)}" for cell in cells or [] if not cell.finished]
    records, skipped = _read(sources)
    benches, broken = _benches(sources)
    return _Found(records, failed, skipped + broken, benches)


def _reason(cell: Cell) -> str:
    """Why a run of a sweep has no record."""
    try:
        read_record(cell.record.parent)
    except UserError as error:
        return str(error)
    return cell.reason or cell.state


def _write(outputs: Path, name: str, found: _Found) -> None:
    """All of a report, and its tables on the terminal."""
    folder = outputs / "reports" / name
    every, measured = _make(folder, found, outputs)
    tables = "\n".join([*(markdown_grid(grid) for grid in every), *([speed_table(measured)] if measured else [])])
    texts = {
        "tables.md": tables, "tables.tex": "\n".join(latex_grid(grid) for grid in every), "cells.csv": csv_cells(every),
        "records.jsonl": "".join(json.dumps(json_ready(record)) + "\n" for record, _ in found.records),
    }  # fmt: skip
    if measured:
        texts["benches.jsonl"] = bench_lines(found.benches)
    for file, text in texts.items():
        write_text(folder / file, text)
    console(160).print(Markdown(tables))
    print(
        f"{folder}: index.html, {', '.join(texts)} (cells.csv names the runs behind each number), pictures", flush=True
    )


def _make(
    folder: Path, found: _Found, outputs: Path, progress: Progress | None = None, made: set[str] | None = None
) -> tuple[list[Grid], list[Speed]]:
    """The page, the pages of the runs that are not yet `made`, and the pictures; its tables and what was measured.

    Tables and pictures see each protocol by itself.
    """
    viewed = [(view, path) for record, path in found.records for view in views(record)]
    records = [record for record, _ in viewed]
    perplexities, accuracies = grids(records), accuracy_grids(records)
    every = perplexities + accuracies + generation_grids(records)
    measured = speeds([scored(record, record["evaluations"][0]) for record, _ in found.records], found.benches)
    logs = {path: _training(path) for _, path in found.records if path is not None}
    curves, broken = _curves(viewed, logs)
    labels = [(row, method) for each in curves.values() for runs in each.values() for row, method, *_ in runs]
    styles = report_styles(every, labels)
    pictures = [*_pictures(perplexities, accuracies, records, styles), *_training_pictures(curves, styles)]
    pictures += _speed_pictures(measured)
    if progress is None:
        for picture in shown(pictures, "draw", unit="picture"):
            draw(picture, folder / f"{picture.name}.png")
        for line in broken:
            print(f"elsa: {line}", file=sys.stderr)
    pages = {record["name"]: f"runs/{_page_name(record)}" for record, _ in found.records}
    folders = {record["name"]: address(path, folder) for record, path in found.records if path is not None}
    text = page(
        every, pictures, records, [] if progress else found.failed, measured, styles=styles, folders=folders,
        pages=pages, progress=progress,
    )  # fmt: skip
    _write_run_pages(folder, found.records, outputs, logs, set() if made is None else made)
    write_text(folder / "index.html", text)
    return every, measured


def _page_name(record: Record) -> str:
    name = file_name(record["name"])
    return f"{name}.html" if name == record["name"] else f"{name[:60]}-{content_hash(record['name'])}.html"


def _write_run_pages(
    folder: Path, records: list[tuple[Record, Path | None]], outputs: Path, logs: Mapping[Path, _Log], made: set[str]
) -> None:
    """One for each record that is not in `made`, which then is."""
    said = _kept(outputs)
    write_text(folder / LIBRARY, library())
    for record, path in shown(records, "write pages", unit="run"):
        key = content_hash([record["name"], [each["key"] for each in record["evaluations"]]])
        if key in made:
            continue
        lines, _ = ([], []) if path is None else logs[path]
        changes = {} if path is None else _mask_changes(path)
        text = run_page(record, folder / "runs", path, lines, changes, said.get(record["name"], []))
        write_text(folder / "runs" / _page_name(record), text)
        made.add(key)


def _mask_changes(folder: Path) -> dict[int, dict[str, float]]:
    """By step and weight; none if the file is broken."""
    try:
        changes = _CHANGES.validate_python(read_json(folder / "mask_changes.json") or {})
    except (UserError, ValidationError):
        return {}
    return changes if len({frozenset(shares) for shares in changes.values()}) == 1 else {}


def _kept(outputs: Path) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """{run: what `elsa generate` kept of it: prompts, and what each model said}. What is broken is left out."""
    kept: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for path in sorted((outputs / "generations").glob("*.json")):
        try:
            found = _Said.model_validate(read_json(path))
        except (UserError, ValidationError):
            continue
        for number, prompt in enumerate(found.prompts):
            texts = {name: texts[number].text for name, texts in found.said.items() if number < len(texts)}
            kept.setdefault(found.config.run or "", []).append((prompt, texts))
    return kept


def _pictures(perplexities: list[Grid], accuracies: list[Grid], records: list[Record], styles: Styles) -> list[Picture]:
    """Of the scores."""
    pictures = [
        grid_picture(grid, styles, f"perplexity_{number}") for number, grid in enumerate(perplexities) if grid.rows
    ]
    pictures += [accuracy_picture(grid, styles, f"accuracy_{number}") for number, grid in enumerate(accuracies)]
    for number, (name, _, group) in enumerate(scored_alike(records)):
        alike = drawable(group, name)
        if any(record["pattern"] != "dense" for record in alike):
            pictures.append(cost_picture(alike, name, file_name(f"cost_{number}_{name}")))
        if len({record["pattern"] for record in alike}) > 1:
            pictures.append(pareto_picture(alike, name, file_name(f"pareto_{number}_{name}")))
    return pictures


def _training_pictures(curves: dict[str, Curves], styles: Styles) -> list[Picture]:
    """One for each model that was trained."""
    return [
        convergence_picture(own, styles, file_name(f"convergence_{number}_{model}"), f"training on {model}")
        for number, (model, own) in enumerate(curves.items()) if own
    ]  # fmt: skip


def _speed_pictures(measured: list[Speed]) -> list[Picture]:
    """One for each number of threads and batch size."""
    return [
        deployment_picture(
            [each for each in measured if (each.threads, each.batch.batch) == load], f"deployment_{load[0]}_{load[1]}"
        )
        for load in dict.fromkeys((each.threads, each.batch.batch) for each in measured)
    ]


def _benches(sources: list[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """What was measured of the runs of these records, and a line for what is broken."""
    found, broken = list[dict[str, Any]](), list[str]()
    for source in sources:
        some, lines = benches_beside(source) if source.suffix == ".jsonl" else read_benches(source.parent)
        found += some
        broken += lines
    return found, broken


def _curves(found: list[tuple[Record, Path | None]], logs: Mapping[Path, _Log]) -> tuple[dict[str, Curves], list[str]]:
    """Of every model, the runs that trained and whose folder is there, and a line for what is broken."""
    curves, broken = dict[str, Curves](), list[str]()
    for model in dict.fromkeys(record["model"] for record, _ in found):
        own = [(record, folder) for record, folder in found if record["model"] == model]
        labels, curves[model] = row_labels([record for record, _ in own]), {}
        for record, folder in own:
            lines, said = ([], []) if folder is None else logs[folder]
            broken += said
            if lines:
                line = (labels[record["name"]], record["method"], record["name"], lines)
                curves[model].setdefault(record["pattern"], []).append(line)
    return curves, broken


def _training(folder: Path) -> _Log:
    """What a run has logged at its steps, and a line if the file is broken."""
    try:
        return _LINES.validate_python(logged(folder)), []
    except (ValueError, AttributeError, TypeError, OSError) as error:
        return [], [f"skipped the curve of {folder}: its metrics are broken ({type(error).__name__})"]


def _sources(path: Path) -> list[Path]:
    """The records below a folder, or the one `records.jsonl` that an earlier report wrote: the file, or its folder."""
    return [path] if path.is_file() else sorted(path.rglob("result.json")) or sorted(path.glob("records.jsonl"))


def _read(sources: list[Path]) -> tuple[list[tuple[Record, Path | None]], list[str]]:
    """All records of the files, each with its run's folder if it lies there.

    What is no record is skipped where it was found in a folder, with a line that names it. Raises `UserError` for a
    file of records that is broken, for it was asked for by name. A run that is found several times counts once, as it
    was found last; so does one that was made again by other code, as it was made last.
    """
    found, skipped = dict[str, tuple[Record, Path | None]](), list[str]()
    for source in sorted(sources, key=lambda source: source.lstat().st_mtime_ns):
        if source.suffix == ".jsonl":
            found |= {_question(record): (record, None) for record in read_records(source)}
            continue
        try:
            if record := read_record(source.parent):
                found[_question(record)] = (record, source.parent)
        except UserError as error:
            skipped.append(f"skipped {error}")
    return sorted(found.values(), key=lambda each: each[0]["name"]), skipped


def _question(record: Record) -> str:
    """What two records share if one was made in place of the other."""
    if record["method"] == "checkpoint":  # no run of ours
        return str(record["name"])
    asked = ("model", "method", "pattern", "seed", "settings", "data_sha256", "coverage")
    return content_hash([[record.get(key) for key in asked], record["config"].get("model", {}).get("dtype")])
