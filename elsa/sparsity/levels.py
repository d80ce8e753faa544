"""Sparsity by name: a level for some weights, the budget for the others, and all of them moved to the exact budget."""

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from elsa.errors import UserError, require
from elsa.files import json_object, read_text
from elsa.globs import matches, refuse_idle

_HALVINGS = 100
_Key = TypeVar("_Key", bound=Hashable)


def read_levels(key: str, path: Path) -> dict[str, float]:
    """{glob or name: level} of a file: lines `name: level`, or a JSON object of them.

    The lines are those of EvoPress's configurations (arXiv:2410.14649), with fractions of zeros for levels where it has
    the numbers of files in its database; a flat YAML file reads the same. Empty lines and those that begin with # do
    not count. Raises `UserError` that names `key`.
    """
    require(path.is_file(), key, path, "no such file; give one, or {glob:level,…}")
    text = read_text(path)
    if text.lstrip().startswith("{"):
        found = json_object(text, str(path))
    else:
        rows = [line.strip() for line in text.splitlines()]
        pairs = [row.rpartition(":") for row in rows if row and not row.startswith("#")]
        found = {name.strip().strip("'\""): level.strip() for name, _, level in pairs}
    levels = {}
    for name, level in found.items():
        try:
            levels[name] = float(level)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{key}={path}: {name or level}: a line `name: level` is wanted, such as *.mlp.*: 0.9"
            ) from error
    return levels


def check_levels(levels: Mapping[str, float]) -> None:
    """Raise `UserError` for what is no sparsity."""
    require(bool(levels), "levels", "{}", "a level for some weights, or null")
    for name, level in levels.items():
        wanted = "the fraction of zeros lies in [0, 1), for example 0.9 (a number of EvoPress's database is none)"
        require(0 <= level < 1, "levels", f"{name}: {level:g}", wanted)


@cache
def _levels_of(levels: tuple[tuple[str, float], ...], names: tuple[str, ...]) -> tuple[float | None, ...]:
    """That of each name: of the first glob in their order that matches, None for none."""
    refuse_idle("levels", [glob for glob, _ in levels], names)
    return tuple(next((level for glob, level in levels if matches(name, glob)), None) for name in names)


def wanted_levels(levels: Mapping[str, float], names: Sequence[str], otherwise: float) -> list[float]:
    """The level of each name as it was given: the first glob that matches counts; `otherwise` where none does."""
    found = _levels_of(tuple(levels.items()), tuple(names))
    return [otherwise if level is None else level for level in found]


def normalised(wanted: Sequence[float], sizes: Sequence[int], sparsity: float) -> list[float]:
    """The levels moved so that they make `sparsity` of all entries zero.

    The odds of a zero, level / (1 − level), are multiplied by one factor for all weights. So their order stays, 0 stays
    0 and none gets to 1. Raises `UserError` if too many are 0.
    """
    total = sum(sizes)
    most = sum(size for level, size in zip(wanted, sizes, strict=True) if level > 0) / total
    if sparsity and sparsity >= most:
        raise UserError(
            f"levels: only {most:.1%} of the weights have one above 0, so ratio={sparsity:g} is out of reach"
        )
    low, high = 0.0, 1.0  # of factor / (1 + factor)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        reached = sum(_moved(level, middle) * size for level, size in zip(wanted, sizes, strict=True))
        low, high = (middle, high) if reached < sparsity * total else (low, middle)
    return [_moved(level, low) for level in wanted]


def _moved(level: float, share: float) -> float:
    """Its odds times share / (1 − share)."""
    zeros, kept = share * level, (1 - share) * (1 - level)
    return zeros / (zeros + kept) if zeros else 0.0


def shared_out(shares: Mapping[_Key, float], sizes: Mapping[_Key, int]) -> dict[_Key, int]:
    """Whole zeros of each weight for these shares of its entries; all keep one. They add up as the shares do."""
    zeros: dict[_Key, int] = {}
    exact, given = 0.0, 0
    for key, share in shares.items():  # rounding the running sum, not each, so that errors do not add up
        exact += share * sizes[key]
        zeros[key] = min(round(exact) - given, sizes[key] - 1)
        given += zeros[key]
    return zeros


def zeros_by_level(levels: Mapping[str, float], sizes: Mapping[_Key, int], sparsity: float) -> dict[_Key, int]:
    """Zeros of each weight, which sum to `sparsity` of all entries. `sizes`: entries by name."""
    wanted = wanted_levels(levels, [str(key) for key in sizes], sparsity)
    moved = normalised(wanted, list(sizes.values()), sparsity)
    return shared_out(dict(zip(sizes, moved, strict=True)), sizes)
