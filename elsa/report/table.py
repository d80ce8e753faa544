"""The comparison table of a few runs, for the console and as Markdown."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from elsa.record.record import Record
from elsa.record.scores import GENERATION_COLUMNS, MEASURES, TASK_SCORES, against_dense, generation_rows
from elsa.report.grid import in_markdown, in_words

_TEXT = ("model", "method")  # columns of words, aligned left
_KNOWN = ("acc", "acc_norm", "n", "version", "num_fewshot", "data_sha256")  # of a task's score


def columns(records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: method, sparsity as counted, perplexity of every set, average accuracies, tokens, time, memory.

    Tokens, seconds and memory are those of the pruning itself, calibration or training included; loading and
    evaluation are not. Several models get a column of their own. A cell that a record lacks reads `--`.
    """
    sets = list(dict.fromkeys(name for record in records for name in record["perplexity"]))
    several = len({record["model"] for record in records}) > 1
    kinds = [kind for kind in TASK_SCORES if any(kind in record for record in records)]
    headers = ["method", "sparsity", *(f"perplexity {name}" for name in sets)]
    headers += [*(f"{kind.replace('_', '-')} acc" for kind in kinds), "tokens", "seconds", "peak memory"]
    rows = []
    for record in records:
        scores = [record["perplexity"].get(name) for name in sets]
        facts = record["facts"]
        tokens = facts.get("calibration_tokens", 0) + facts.get("training_tokens", 0)
        row = [record["method"], _sparsity(record["sparsity"])]
        row += [in_words(score["perplexity"], 2) if score else "--" for score in scores]
        row += [_average(record.get(kind)) for kind in kinds]
        row += [f"{tokens:,}", f"{record['seconds']['prune']:,.1f}", f"{record['peak_memory_bytes'] / 2**30:.2f} GiB"]
        rows.append([record["model"], *row] if several else row)
    return (["model", *headers] if several else headers), rows


def _sparsity(counted: dict[str, Any]) -> str:
    """Of what was pruned, and of all block weights where some of them were left out."""
    of_blocks = counted.get("of_blocks")
    return f"{counted['counted']:.4%}" + (f" ({of_blocks['counted']:.4%} of all)" if of_blocks else "")


def _average(scores: dict[str, Any] | None) -> str:
    if scores is None or scores["average_acc"] is None:
        return "--"
    return f"{scores['average_acc']:.2%}{' (limited)' if scores['limit'] else ''}"


def console(width: int) -> Console:
    """Prints names as they are: brackets in them are no markup. `width`: characters, where there is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False)


def print_tables(records: list[Record]) -> None:
    """Print the table, and scores by task where there are some; without a terminal wide enough for whole words."""
    headers, rows = columns(records)
    table = Table(title=None if "model" in headers else records[0]["model"])
    for header in headers:
        table.add_column(header, justify="left" if header in _TEXT else "right")
    for row in rows:
        table.add_row(*row)
    console(140).print(table)
    print_task_tables(records)


def markdown_table(records: list[Record]) -> str:
    """The same table as Markdown."""
    headers, rows = columns(records)
    align = ["---" if header in _TEXT else "---:" for header in headers]
    lines = [[in_markdown(cell) for cell in row] for row in (headers, *rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [lines[0], align, *lines[1:]]) + "\n"


def print_task_tables(records: list[Record]) -> None:
    """Zero-shot scores and those of generation, each where a record has them."""
    if any("zero_shot" in record for record in records):
        print_zero_shot(records)
    if any("generation" in record for record in records):
        print_generation(records)


def print_generation(records: list[Record]) -> None:
    """Accuracy, length, repetition and cut answers by task, with the differences to the dense model where paired."""
    scored = [record for record in records if "generation" in record]
    limited = any(record["generation"]["limit"] for record in scored)
    table = Table(title="generation" + (", limited" if limited else ""))
    for header in ("method", "sparsity", *GENERATION_COLUMNS):
        table.add_column(header, justify="left" if header in ("method", "sparsity", "task", "metrics") else "right")
    for record in scored:
        for row in generation_rows(record["generation"], record.get(against_dense("generation"), {})):
            table.add_row(record.get("method", ""), record.get("pattern", ""), *row)
    console(190).print(table)


def print_zero_shot(records: list[Record]) -> None:
    """Accuracy by task of every record that has it, with standard errors, and against the dense model where paired.

    Tasks with other metrics, such as perplexities, show these in a column of their own.
    """
    scored = [record for record in records if "zero_shot" in record]
    others = any(_other_metrics(score) for record in scored for score in record["zero_shot"]["tasks"].values())
    table = Table(title="zero-shot accuracy" + (", limited" if any(r["zero_shot"]["limit"] for r in scored) else ""))
    headers = ["method", "sparsity", "task", "acc", "acc_norm", "n", "against dense", "answers lost, gained"]
    for header in [*headers, *(["other metrics"] if others else [])]:
        table.add_column(header, justify="left" if header in ("method", "sparsity", "task") else "right")
    for record in scored:
        for name, score in record["zero_shot"]["tasks"].items():
            norm = f"{score['acc_norm']:.3f} ± {score['acc_norm_stderr']:.3f}" if "acc_norm_stderr" in score else "--"
            pair = record.get("zero_shot_against_dense", {}).get(name)
            change = f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]" if pair else "--"
            flips = f"{pair['lost']}, {pair['gained']}" if pair else "--"
            accuracy = f"{score['acc']:.3f} ± {score['acc_stderr']:.3f}" if "acc" in score else "--"
            cells = [accuracy, norm, f"{score['n']}", change, flips, *([_other_metrics(score)] if others else [])]
            table.add_row(record.get("method", ""), record.get("pattern", ""), name, *cells)
    console(140).print(table)


def _other_metrics(score: dict[str, Any]) -> str:
    named = (item for item in score.items() if item[0] not in _KNOWN and not item[0].endswith("_stderr"))
    return ", ".join(f"{name} {value:.4g}" for name, value in named if isinstance(value, (int, float)))


def score_tables(record: Record) -> dict[str, list[list[Any]]]:
    """The scores of one run as rows, the header first: for a tracker."""
    rows = [[name, score["perplexity"], score["windows"]] for name, score in record["perplexity"].items()]
    tables = {"perplexity_table": [["set", "perplexity", "windows"], *rows]} if rows else {}
    for kind, more in {"zero_shot": ("acc_norm", "acc_norm_stderr"), "generation": MEASURES}.items():
        if kind in record:
            header = ["task", "acc", "acc_stderr", *more, "n"]
            tasks = record[kind]["tasks"].items()
            tables[f"{kind}_table"] = [header, *([name, *map(score.get, header[1:])] for name, score in tasks)]
    return tables
