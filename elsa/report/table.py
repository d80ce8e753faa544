"""The comparison table of a few runs, for the console and as Markdown."""

from rich.table import Table


def columns(records: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: method, sparsity as counted, perplexity of every set, seconds, peak memory.

    Seconds and memory are those of the pruning itself (training or calibration included, loading and evaluation not).
    A cell that a record lacks reads `--`.
    """
    sets = list(dict.fromkeys(name for record in records for name in record["perplexity"]))
    headers = ["model", "method", "sparsity"] + [f"perplexity {name}" for name in sets] + ["seconds", "peak memory"]
    rows = []
    for record in records:
        scores = [record["perplexity"].get(name) for name in sets]
        rows.append(
            [record["model"], record["method"], f"{record['sparsity']['counted']:.4%}"]
            + [f"{score['perplexity']:,.2f}" if score else "--" for score in scores]
            + [f"{record['seconds']['prune']:,.1f}", f"{record['peak_memory_bytes'] / 2**30:.2f} GiB"]
        )
    return headers, rows


def rich_table(records: list[dict]) -> Table:
    """The table for a terminal."""
    headers, rows = columns(records)
    table = Table()
    for header in headers:
        table.add_column(header, justify="left" if header in ("model", "method") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(records: list[dict]) -> str:
    """The same table as Markdown."""
    headers, rows = columns(records)
    align = ["---" if header in ("model", "method") else "---:" for header in headers]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [headers, align, *rows]) + "\n"
