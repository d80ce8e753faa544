"""The comparison table of a few runs, for the console and as Markdown."""

import sys

from rich.console import Console
from rich.table import Table

_TEXT = ("model", "method")  # columns of words, aligned left


def columns(records: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: method, sparsity as counted, perplexity of every set, tokens, seconds, peak memory.

    Tokens, seconds and memory are those of the pruning itself, calibration or training included; loading and
    evaluation are not. Several models get a column of their own. A cell that a record lacks reads `--`.
    """
    sets = list(dict.fromkeys(name for record in records for name in record["perplexity"]))
    several = len({record["model"] for record in records}) > 1
    headers = ["method", "sparsity", *(f"perplexity {name}" for name in sets), "tokens", "seconds", "peak memory"]
    rows = []
    for record in records:
        scores = [record["perplexity"].get(name) for name in sets]
        facts = record["facts"]
        tokens = facts.get("calibration_tokens", 0) + facts.get("training_tokens", 0)
        row = [record["method"], f"{record['sparsity']['counted']:.4%}"]
        row += [f"{score['perplexity']:,.2f}" if score else "--" for score in scores]
        row += [f"{tokens:,}", f"{record['seconds']['prune']:,.1f}", f"{record['peak_memory_bytes'] / 2**30:.2f} GiB"]
        rows.append([record["model"], *row] if several else row)
    return (["model", *headers] if several else headers), rows


def print_table(records: list[dict]) -> None:
    """Print the table; where output is no terminal it is wide enough for whole words."""
    headers, rows = columns(records)
    table = Table(title=None if "model" in headers else records[0]["model"])
    for header in headers:
        table.add_column(header, justify="left" if header in _TEXT else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def markdown_table(records: list[dict]) -> str:
    """The same table as Markdown."""
    headers, rows = columns(records)
    align = ["---" if header in _TEXT else "---:" for header in headers]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [headers, align, *rows]) + "\n"
