"""Published numbers, Elsa's (arXiv:2510.01650) and BEST's (arXiv:2609.06557), each with where it was read.

Of both papers only the abstract was at hand; the other cells of `published.csv` are from second-hand notes and say so.
What is not known is not there.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elsa.sparsity.pattern import Pattern


@dataclass(frozen=True)
class Published:
    """A perplexity of a paper. `set`, `model`, `pattern`, `ratio` and `allocation` as in `conf/`."""

    model: str
    set: str
    pattern: str
    ratio: float
    allocation: str
    method: str
    perplexity: float
    provenance: str

    @property
    def sparsity(self) -> Pattern:
        """The pattern of zeros; its name is a column's."""
        return Pattern(pattern=self.pattern, ratio=self.ratio, allocation=self.allocation)


def published(model: str, evaluation_set: str) -> list[Published]:
    """What is known of a model on a set."""
    with (Path(__file__).parent / "published.csv").open() as file:
        rows = [_published(row) for row in csv.DictReader(file)]
    return [row for row in rows if (row.model, row.set) == (model, evaluation_set)]


def _published(row: dict[str, Any]) -> Published:
    return Published(**row | {"perplexity": float(row["perplexity"]), "ratio": float(row["ratio"])})
