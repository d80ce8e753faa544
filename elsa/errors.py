"""The one error that a user is meant to read."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import accumulate

_MOST = 300  # characters of a list
LONGEST_NAME = 100  # characters
OUT_OF_MEMORY = 3  # exit code of a process that ran out of memory; 2 is that of a user's mistake
LOST_RANK = 4  # exit code of a rank whose others have gone


class UserError(ValueError):
    """What was asked for cannot be done. The message is one line: the key, the value, and what would be right."""

    exit_code = 2


class AgreedError(UserError):
    """One that all ranks of a run have been told of, so that the first alone says it."""


class RankError(UserError):
    """A rank has ended without a word that the user could see. `exit_code`: its own, or 128 and the signal's number."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.exit_code = code if code > 0 else 128 - code


class Stopped(Exception):  # noqa: N818 (not an error: the run can go on later)
    """A signal asked the process to stop, and it did so in good order."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number


def in_one_line(said: object, most: int | None = None) -> str:
    """What an error says, without line breaks: its first `most` characters, or all."""
    return " ".join(str(said).split())[:most]


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise `UserError` "key=value: expected" unless `condition` holds.

    Args:
        condition: that must hold.
        key: relative to its config group, which is put before it (`under`).
        value: what was given.
        expected: what would be right, in words.

    Examples:
        >>> require(0 < 2, "damping", 2, "positive")
        >>> require(0 < -1, "damping", -1, "positive, for example 0.01")
        Traceback (most recent call last):
        elsa.errors.UserError: damping=-1: positive, for example 0.01
    """
    if not condition:
        raise UserError(f"{key}={value}: {expected}")


def require_name(key: str, value: str) -> None:
    """Raise `UserError` unless `value` can be part of a path: a short name that cannot lead out of its folder."""
    fits = re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", value) is not None and len(value) <= LONGEST_NAME
    wanted = f"letters, digits and . _ - (no dot first), at most {LONGEST_NAME}"
    shown = " ".join(value[:LONGEST_NAME].split()) or "''"
    require(fits, key, shown, wanted)


@contextmanager
def under(key: str) -> Iterator[None]:
    """Put `key` before the key that a `UserError` from inside names, unless that is one of the group `paths`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}" if str(error).startswith("paths.") else f"{key}.{error}") from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Name the closest of the `known` words, or as many as can be read when none is close."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1)
    if not known:
        return "there is none to choose from"
    if close:
        return f"did you mean {close[0]!r}?"
    shown = [name for name, end in zip(known, accumulate(len(name) + 2 for name in known), strict=True) if end <= _MOST]
    rest = f", and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"known: {', '.join(shown)}{rest}"
