"""Names of weights: as they stand in `state_dict`, with the number of an expert behind where a parameter holds several.

Weights are chosen by globs over their names, as in a shell.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from elsa.errors import UserError, did_you_mean

_WEIGHT = ".weight"
_EXPERT = re.compile(r"(.+)\[(\d+)\]")


def expert_name(parameter_name: str, expert: int) -> str:
    """The name of an expert's matrix: that of its parameter in the state dict, and its number."""
    return f"{parameter_name}[{expert}]"


def stored_name(name: str) -> tuple[str, int | None]:
    """The parameter in the state dict that holds a weight of this name, and the number of the expert if it is one's."""
    found = _EXPERT.fullmatch(name)
    return (name, None) if found is None else (found[1], int(found[2]))


def matches(name: str, glob: str) -> bool:
    """Whether a glob matches a weight's name, or that name without `.weight`, or without the number of an expert.

    A name matches itself, though a glob's brackets are something else than an expert's.
    """
    parts = {name, name.removesuffix(_WEIGHT), stored_name(name)[0]}
    return name == glob or any(fnmatchcase(part, glob) for part in parts)


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
        parts = stored_name(name)[0].removesuffix(_WEIGHT).split(".")
        found.add(".".join(parts))
        found |= {f"*.{'.'.join(parts[-count:])}" for count in (1, 2)}
        found |= {f"{'.'.join(parts[:count])}.*" for count in range(1, len(parts))}
        found |= {f"*.{part}.*" for part in parts[1:-1]}
    return found
