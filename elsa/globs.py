"""Weights chosen by their names: globs, as in a shell, over names as they stand in `state_dict`."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from elsa.errors import UserError, did_you_mean

_WEIGHT = ".weight"


def matches(name: str, glob: str) -> bool:
    """Whether a glob matches a weight's name, or that name without `.weight`, or without the number of an expert.

    A name matches itself, though a glob's brackets are something else than an expert's.
    """
    return name == glob or any(fnmatchcase(each, glob) for each in {name, name.removesuffix(_WEIGHT), _tensor(name)})


def refuse_idle(key: str, globs: Iterable[str], names: Iterable[str]) -> None:
    """Raise `UserError` that names `key` and the first of the globs that matches none of the names."""
    names = list(names)
    known = set(names)
    for glob in globs:
        if glob not in known and not any(matches(name, glob) for name in names):
            raise UserError(f"{key}={glob}: no prunable weight has such a name; {did_you_mean(glob, _globs_of(names))}")


def _globs_of(names: Iterable[str]) -> set[str]:
    """What somebody may have meant: the names, what they end with, what they begin with, and what is in between."""
    found: set[str] = set()
    for name in names:
        parts = _tensor(name.removesuffix(_WEIGHT)).split(".")
        found.add(".".join(parts))
        found |= {f"*.{'.'.join(parts[-count:])}" for count in (1, 2)}
        found |= {f"{'.'.join(parts[:count])}.*" for count in range(1, len(parts))}
        found |= {f"*.{part}.*" for part in parts[1:-1]}
    return found


def _tensor(name: str) -> str:
    """Without the number of an expert."""
    return name.partition("[")[0]
