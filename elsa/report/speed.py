"""What `elsa bench` has measured of runs: quality against speed and against bytes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from elsa.errors import UserError
from elsa.files import json_object, read_text
from elsa.record.record import Record
from elsa.report.grid import in_markdown

SPEED_TITLE = "decoding, tokens a second: the fastest dense side and the fastest sparse one (95 % interval)"


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Side(_Shape):
    tokens_per_second: float = Field(gt=0)
    bytes: int = Field(gt=0)

    @property
    def megabytes(self) -> float:
        return self.bytes / 1e6


class _Verdict(_Shape):
    dense: str
    sparse: str
    ratio: float
    low: float
    high: float


class _Batch(_Shape):
    batch: int
    sides: dict[str, _Side]
    verdict: _Verdict


class Bench(_Shape):
    """A file of `elsa bench`, as far as it is shown. `run`: the name of the record of the model's run."""

    run: str
    threads: int
    batches: list[_Batch]


@dataclass(frozen=True)
class Speed:
    """The fastest dense and the fastest sparse side at one batch size, and the record of their run."""

    record: Record
    threads: int
    batch: _Batch

    @property
    def dense(self) -> _Side:
        return self.batch.sides[self.batch.verdict.dense]

    @property
    def sparse(self) -> _Side:
        return self.batch.sides[self.batch.verdict.sparse]

    @property
    def perplexity(self) -> float | None:
        """On the first set that the run was scored on."""
        return next((float(score["perplexity"]) for score in self.record["perplexity"].values()), None)


def read_benches(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The benches of a run's folder, and a line for each file that is none. Those that compare nothing are left out."""
    return _parsed([(str(path), read_text(path)) for path in sorted((folder / "benches").glob("*.json"))])


def benches_beside(records: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Those that an earlier report wrote beside its `records.jsonl`."""
    path = records.parent / "benches.jsonl"
    lines = read_text(path).splitlines() if path.is_file() else []
    return _parsed([(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)])


def _parsed(texts: list[tuple[str, str]]) -> tuple[list[dict[str, Any]], list[str]]:
    found, broken = [], []
    for where, text in texts:
        try:
            content = json_object(text, where)
            Bench.model_validate(content)
            found.append(content)
        except UserError as error:
            broken.append(f"skipped {error}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"]))
            broken.append(f"skipped {where}: no bench of a run ({key}: {first['msg'].lower()})")
    return found, broken


def speeds(records: list[Record], benches: Sequence[dict[str, Any]]) -> list[Speed]:
    """What was measured of these runs, by threads, batch and sparsity."""
    by_name = {record["name"]: record for record in records}
    found = []
    for bench in map(Bench.model_validate, benches):
        if bench.run in by_name:
            found += [Speed(by_name[bench.run], bench.threads, batch) for batch in bench.batches]
    return sorted(found, key=lambda s: (s.threads, s.batch.batch, s.record["sparsity"]["counted"], s.record["name"]))


def speed_rows(found: Sequence[Speed]) -> list[list[str]]:
    """A table, its header first."""
    rows = [["run", "threads", "batch", "perplexity", "dense", "sparse", "times", "MB dense", "MB sparse"]]
    for each in found:
        verdict, record = each.batch.verdict, each.record
        rows.append([
            f"{record['model']} {record['method']} {record['pattern']}", str(each.threads), str(each.batch.batch),
            "--" if each.perplexity is None else f"{each.perplexity:,.2f}",
            f"{each.dense.tokens_per_second:.1f} ({verdict.dense.removeprefix('dense ')})",
            f"{each.sparse.tokens_per_second:.1f} ({verdict.sparse.removeprefix('sparse ')})",
            f"{verdict.ratio:.2f} ({verdict.low:.2f} to {verdict.high:.2f})",
            f"{each.dense.megabytes:,.0f}", f"{each.sparse.megabytes:,.0f}",
        ])  # fmt: skip
    return rows


def speed_table(found: list[Speed]) -> str:
    """The same in Markdown, under its title."""
    header, *rows = [[in_markdown(cell) for cell in row] for row in speed_rows(found)]
    lines = [SPEED_TITLE, "", f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def bench_lines(benches: Sequence[dict[str, Any]]) -> str:
    """As `benches_beside` reads them."""
    return "".join(json.dumps(bench) + "\n" for bench in benches)
