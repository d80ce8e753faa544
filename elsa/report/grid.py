"""Perplexity by method and pattern, accuracy by method and task, and what a method's answers read like, averaged over
seeds: what a paper's tables show.

Cells are compared only where they were scored alike: records with other windows, lengths, formulas or data go to grids
of their own, and a method with several settings at one pattern gets a row for each.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from elsa.files import flattened
from elsa.record.record import Record, task_protocol
from elsa.record.scores import against_dense
from elsa.report.published import published
from elsa.sparsity.pattern import Pattern

_PROTOCOL = ("windows", "length", "split", "formula", "autocast", "data_sha256")
_DENSE = "dense"
_HUGE = 1e12
_LATEX = {character: rf"\{character}" for character in "%_&#${}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_AGAINST = ", against dense"


class _Column(NamedTuple):
    """`factor`: from what a record holds to what the column shows."""

    column: str
    factor: int


_WRITTEN = {  # of generation, by measure
    "acc": _Column("acc in %", 100),
    "tokens": _Column("answer length in tokens", 1),
    "repetition": _Column("repeated 4-grams in %", 100),
    "cut": _Column("cut at the limit in %", 100),
}


@dataclass
class Cell:
    """Scores of one method and setting, a seed each, and the runs they come from. `errors`: of accuracies."""

    values: list[float] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)

    @property
    def mean(self) -> float:
        try:
            return fmean(self.values)
        except OverflowError:  # their sum has no number in fp64
            return math.inf

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one, and where one of them is no number."""
        known = len(self.values) > 1 and all(map(math.isfinite, self.values))
        return stdev(self.values) if known else None

    @property
    def bar(self) -> float:
        """How far an error bar reaches: the spread over seeds, or the standard error of a single one."""
        return self.spread or (fmean(self.errors) if self.errors else 0.0)

    def __add__(self, other: "Cell") -> "Cell":
        return Cell(
            self.values + other.values, self.runs + other.runs, self.errors + other.errors, self.seeds + other.seeds
        )  # fmt: skip

    def __str__(self) -> str:
        digits = 2 if self.mean < 100 else 0
        spread = "" if self.spread is None else f" ± {in_words(self.spread, digits)}"
        return f"{in_words(self.mean, digits)}{spread}"


@dataclass
class Difference(Cell):
    """Differences to the dense model. `intervals`: their 95 % intervals, shown where there is a single seed."""

    intervals: list[tuple[float, float]] = field(default_factory=list)

    def __add__(self, other: Cell) -> "Difference":
        assert isinstance(other, Difference)
        intervals = self.intervals + other.intervals
        seeds = self.seeds + other.seeds
        return Difference(self.values + other.values, self.runs + other.runs, seeds=seeds, intervals=intervals)

    def __str__(self) -> str:
        if self.spread is not None:
            return f"{self.mean:+.2f} ± {self.spread:.2f}"
        low, high = self.intervals[0]
        return f"{self.mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def in_words(number: float, digits: int) -> str:
    """A number as tables show it: infinite and huge ones too are short words."""
    return f"{number:,.{digits}f}" if abs(number) < _HUGE else f"{number:.3g}"


@dataclass
class Grid:
    """`cells[row, column]`: perplexities by pattern, from few zeros to many, then N:M; or accuracies in % by task.

    Rows go from bad to good. Those of papers are named "… (published)" and have no run; they and the dense model are
    never the best. `notes` say where the papers' numbers were read. `lowest_wins`: perplexities do, accuracies do not.
    `ranked`: the one column that has a best row; None for all. `methods`: of each row. `kinds`: of each pattern, how
    its zeros are spread; lines join patterns of one kind, N:M none. `measure`: what is in the cells. `dense`: scores of
    the unpruned model, and of what was made of it without zeros, by method. `place`: where it was measured, in words.
    """

    title: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]
    notes: list[str] = field(default_factory=list)
    lowest_wins: bool = True
    ranked: str | None = None
    methods: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    measure: str = "perplexity"
    place: str = ""
    dense: dict[str, Cell] = field(default_factory=dict)

    def text(self, row: str, column: str) -> str:
        """The cell as a table shows it; `--` where there is no run."""
        return str(self.cells[row, column]) if (row, column) in self.cells else "--"

    def best(self, column: str) -> str | None:
        """The row with the best mean of the pruned ones, None if the column holds a single number or has no best."""
        order = self.order(column)
        return order[0] if len(order) > 1 else None

    def order(self, column: str) -> list[str]:
        """The rows with runs, the dense model's apart, by their means from the best; none if the column has no best."""
        if self.ranked not in (None, column):
            return []
        found = {row: self.cells[row, column] for row in self.rows if (row, column) in self.cells and row != _DENSE}
        means = {row: cell.mean for row, cell in found.items() if cell.runs and not math.isnan(cell.mean)}
        return sorted(means, key=means.__getitem__, reverse=not self.lowest_wins)


def scored_alike(records: list[Record]) -> list[tuple[str, tuple[Any, ...], list[Record]]]:
    """Evaluation sets and protocols, each with the records that were scored so: on the same tokens in the same way."""
    parts: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        for name, score in record["perplexity"].items():
            parts.setdefault((name, tuple(score.get(key) for key in (*_PROTOCOL, "loaded"))), []).append(record)
    return [(name, protocol, found) for (name, protocol), found in parts.items()]


def grids(records: list[Record]) -> list[Grid]:
    """One grid per model, evaluation set and protocol."""
    parts: dict[tuple[Any, ...], list[Record]] = {}
    for name, protocol, alike in scored_alike(records):
        for record in alike:
            parts.setdefault((record["model"], _model_key(record), name, protocol), []).append(record)
    return [_grid(model, name, protocol, found) for (model, _, name, protocol), found in parts.items()]


def _model_key(record: Record) -> str:
    """What tells models of one name apart; which of their weights are pruned is a setting."""
    return _key({key: value for key, value in record["config"]["model"].items() if key not in ("include", "exclude")})


def _grid(model: str, name: str, protocol: tuple[Any, ...], records: list[Record]) -> Grid:
    (windows, length, split), loaded = protocol[:3], protocol[-1]
    unpruned: dict[str, Cell] = {}
    for record in records:
        if record["pattern"] == _DENSE:
            own = _one(record, record["perplexity"][name]["perplexity"])
            unpruned[record["method"]] = unpruned.get(record["method"], Cell()) + own
    dense = sorted({in_words(r["perplexity"][name]["perplexity"], 2) for r in records if r["pattern"] == _DENSE})
    title = f"{model}, perplexity on {name} ({windows} {split} windows of {length} tokens"
    title += f", {loaded}" if loaded else ""
    title += f"; without pruning {' or '.join(dense)})" if dense else ")"
    pruned = [record for record in records if record["pattern"] != _DENSE]
    labels = row_labels(pruned)
    cells: dict[tuple[str, str], Cell] = {}
    for record in pruned:
        place = (labels[record["name"]], record["pattern"])
        cells[place] = cells.get(place, Cell()) + _one(record, record["perplexity"][name]["perplexity"])
    theirs = published(model, name)
    for number in theirs:
        cells[f"{number.method} (published)", number.sparsity.name] = Cell([number.perplexity])
    notes = [f"{n.method} at {n.sparsity.name}, {n.perplexity:g}: published, by {n.provenance}" for n in theirs]
    orders = {record["pattern"]: _order(record) for record in pruned}
    orders |= {number.sparsity.name: _place(number.sparsity, number.allocation) for number in theirs}
    patterns = sorted({pattern for _, pattern in cells}, key=orders.__getitem__)

    def height(row: str) -> float:
        found = fmean(math.log(cell.mean) for (its_row, _), cell in cells.items() if its_row == row)
        return math.inf if math.isnan(found) else found

    return Grid(
        title, sorted({row for row, _ in cells}, key=height, reverse=True), patterns, cells, notes,
        methods=_methods(pruned, labels)
        | {f"{number.method} (published)": number.method for number in theirs},
        kinds={pattern: "N:M" if is_group else shares for pattern, (is_group, shares, *_) in orders.items()},
        place=f"{model}, {name}", dense=unpruned,
    )  # fmt: skip


def _one(record: Record, value: float, errors: Sequence[float] = ()) -> Cell:
    return Cell([value], [record["name"]], list(errors), [record.get("seed")])


def _order(record: Record) -> tuple[bool, str, float, str]:
    """Where a record's pattern stands in a table: from few zeros to many, one budget after equal shares, then N:M."""
    asked = record["config"].get("sparsity")
    if asked is None:  # a folder that no run left
        return (False, "", record["sparsity"]["counted"], "")
    allocation = Pattern.allocation_of(record["pattern"])
    return _place(Pattern(pattern=asked["pattern"], ratio=asked["ratio"]), allocation)


def _place(pattern: Pattern, allocation: str) -> tuple[bool, str, float, str]:
    shares = "" if allocation == "uniform" else allocation
    return (pattern.group is not None, shares, pattern.sparsity, pattern.name)


def accuracy_grids(records: list[Record]) -> list[Grid]:
    """One grid per model, pattern and protocol of the tasks; the dense model's row stands in each of its model."""
    scored = [record for record in records if record.get("zero_shot", {}).get("average_acc") is not None]
    return [_accuracy_grid(*part) for part in _by_pattern(scored, "zero_shot", _task_protocol)]


def generation_grids(records: list[Record]) -> list[Grid]:
    """The same for each task of generation: its accuracy and how the answers read, and the differences to dense."""
    parts = _by_pattern([record for record in records if "generation" in record], "generation", task_protocol)
    return [
        _generation_grid(model, pattern, name, own)
        for model, pattern, own in parts
        for name in own[0]["generation"]["tasks"]
    ]


def _by_pattern(
    records: list[Record], kind: str, protocol: Callable[[dict[str, Any]], Any]
) -> list[tuple[str, str, list[Record]]]:
    """(model, pattern, its records and the dense ones) that were scored alike; what is dense alone is left out."""
    parts: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        model = (record["model"], _model_key(record), str(protocol(record[kind])))
        parts.setdefault(model, []).append(record)
    found = []
    for (model, *_), scored in parts.items():
        dense = [record for record in scored if record["pattern"] == _DENSE]
        for pattern in dict.fromkeys(record["pattern"] for record in scored if record not in dense):
            own = [record for record in scored if record["pattern"] == pattern]
            found.append((model, pattern, dense + own))
    return found


def _task_protocol(scores: dict[str, Any]) -> str:
    tasks = {name: [task[key] for key in ("n", "version", "num_fewshot")] for name, task in scores["tasks"].items()}
    return str((scores["limit"], scores["dtype"], scores["lm_eval"], tasks))


def _generation_grid(model: str, pattern: str, name: str, records: list[Record]) -> Grid:
    first, labels = records[0]["generation"], row_labels(records)
    cells: dict[tuple[str, str], Cell] = {}
    for record in records:
        for column, cell in _written(record, name).items():
            place = (labels[record["name"]], column)
            cells[place] = cells[place] + cell if place in cells else cell
    task, accuracy = first["tasks"][name], _WRITTEN["acc"].column
    rows = sorted(dict.fromkeys(labels.values()), key=lambda row: cells.get((row, accuracy), Cell([0.0])).mean)
    columns = [column for each in _WRITTEN.values() for column in (each.column, each.column + _AGAINST)]
    there = [column for column in columns if any((row, column) in cells for row in rows)]
    limited = "" if first["limit"] is None else f"; limited to the first {first['limit']} documents"
    how = f"acc: {task.get('accuracy', 'none')}; {task['num_fewshot']}-shot; up to {task['max_new_tokens']} tokens"
    return Grid(
        f"{model} at {pattern}, {name} ({how}{limited})", rows, there, cells, lowest_wins=False, ranked=accuracy,
        methods=_methods(records, labels), measure="accuracy", place=f"{model} at {pattern}, {name}",
    )  # fmt: skip


def _methods(records: list[Record], labels: dict[str, str]) -> dict[str, str]:
    """{row: method}."""
    return {labels[record["name"]]: record["method"] for record in records}


def _written(record: Record, name: str) -> dict[str, Cell]:
    """The cells of a run: each measure, and its difference to the dense model's where they are paired."""
    score = record["generation"]["tasks"][name]
    pairs, found = record.get(against_dense("generation"), {}).get(name, {}), dict[str, Cell]()
    for measure, (column, factor) in _WRITTEN.items():
        if measure in score:
            found[column] = _one(record, factor * score[measure])
        if measure in pairs:
            difference, low, high = (factor * pairs[measure][key] for key in ("difference", "low", "high"))
            found[column + _AGAINST] = Difference(
                [difference], [record["name"]], seeds=[record.get("seed")], intervals=[(low, high)]
            )
    return found


def _accuracy_grid(model: str, pattern: str, records: list[Record]) -> Grid:
    first, labels = records[0]["zero_shot"], row_labels(records)
    limited = "" if first["limit"] is None else f"; limited to the first {first['limit']} documents of each task"
    cells: dict[tuple[str, str], Cell] = {}
    for record in records:
        scores = record["zero_shot"]
        columns = {n: (task["acc"], [task["acc_stderr"]]) for n, task in scores["tasks"].items() if "acc" in task}
        for column, (accuracy, errors) in (columns | {"mean": (scores["average_acc"], [])}).items():
            place = (labels[record["name"]], column)
            cell = _one(record, 100 * accuracy, [100 * error for error in errors])
            cells[place] = cells.get(place, Cell()) + cell
    rows = sorted(dict.fromkeys(labels.values()), key=lambda row: cells[row, "mean"].mean)
    title = f"{model} at {pattern}, zero-shot accuracy in % (acc{limited})"
    names = [name for name, task in first["tasks"].items() if "acc" in task]
    return Grid(
        title, rows, [*names, "mean"], cells, lowest_wins=False, methods=_methods(records, labels),
        measure="zero-shot accuracy", place=f"{model} at {pattern}, mean of {len(names)} task{'s'[: len(names) > 1]}",
    )  # fmt: skip


def row_labels(records: list[Record]) -> dict[str, str]:
    """{run: row}: the method, with the keys that differ where it stands in one cell with several settings."""
    labels = {}
    for method in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == method]
        flat = {record["name"]: _flat(record["settings"]) for record in own}
        cells: dict[str, set[str]] = {}
        for record in own:
            cells.setdefault(record["pattern"], set()).add(_key(record["settings"]))
        several = any(len(settings) > 1 for settings in cells.values())
        keys = dict.fromkeys(key for settings in flat.values() for key in settings)
        differing = [key for key in keys if len({str(settings.get(key)) for settings in flat.values()}) > 1]
        for name, settings in flat.items():
            shown = ", ".join(_short(key, settings[key]) for key in differing if key in settings)
            labels[name] = f"{method} ({shown})" if several and shown else method
    return labels


def _short(key: str, value: object) -> str:
    """The last part of a key and its value; of a group the name of its choice."""
    if not key.endswith(".type"):
        return f"{key.split('.')[-1]}={value}"
    return f"{key.split('.')[-2]}={str(value).lower()}"


def _key(settings: dict[str, Any]) -> str:
    return str(sorted(_flat(settings).items()))


def _flat(settings: dict[str, Any]) -> dict[str, object]:
    """Flattened, with whole numbers as such: 1 and 1.0 are the same setting."""
    values = flattened(settings).items()
    return {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in values}


def markdown_grid(grid: Grid) -> str:
    """A Markdown table under its title, the best of each column in bold, `--` where there is no run."""
    lines = [in_markdown(grid.title), "", "| method | " + " | ".join(map(in_markdown, grid.columns)) + " |"]
    lines.append("| --- |" + " ---: |" * len(grid.columns))
    for row in grid.rows:
        shown = [(grid.text(row, column), grid.best(column) == row) for column in grid.columns]
        texts = [f"**{text}**" if best else text for text, best in shown]
        lines.append(f"| {in_markdown(row)} | " + " | ".join(texts) + " |")
    lines += ["", *(f"* {in_markdown(note)}" for note in grid.notes)] if grid.notes else []
    return "\n".join(lines) + "\n"


def in_markdown(text: str) -> str:
    """Names in which nothing ends a cell or begins HTML."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def latex_grid(grid: Grid) -> str:
    """The same as a LaTeX table in the manner of booktabs, its title as a comment."""
    title = " ".join(grid.title.split())
    lines = [f"% {title}", r"\begin{tabular}{l" + "r" * len(grid.columns) + "}", r"\toprule"]
    lines += [" & ".join(["method", *map(_latex, grid.columns)]) + r" \\", r"\midrule"]
    for row in grid.rows:
        shown = [(_latex(grid.text(row, column)), grid.best(column) == row) for column in grid.columns]
        texts = [rf"\textbf{{{text}}}" if best else text for text, best in shown]
        lines.append(" & ".join([_latex(row), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex(text: str) -> str:
    """Names in which no character is a command."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def csv_cells(all_grids: list[Grid]) -> str:
    """Every cell of every grid as a line: mean, spread, number of seeds, and the runs it comes from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "method", "column", "mean", "spread", "seeds", "runs"])
    for grid in all_grids:
        for (row, column), cell in grid.cells.items():
            spread = "" if cell.spread is None else cell.spread
            writer.writerow([grid.title, row, column, cell.mean, spread, len(cell.values), " ".join(cell.runs)])
    return text.getvalue()
