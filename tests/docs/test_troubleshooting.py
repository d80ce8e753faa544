"""The messages of docs/troubleshooting.md are those that the code prints."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
MESSAGES = [found.strip() for found in re.findall(r"^#### `(.+)`$", PAGE, re.MULTILINE)]
FEWEST = 6  # letters of a part that says something
SEAMS = re.compile("…|: |; ")  # where values are put in, and where messages are put together
GIVEN = re.compile(r"[\w.]*?(\w+)=\S*")  # the key that `require` is given, below those that `under` puts before it


@cache
def texts_of(path):
    """Every text in a source file but its docstrings."""
    tree = ast.parse(path.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (each for each in ast.walk(tree) if isinstance(each, ast.Constant) and id(each) not in said)
    return "\0".join(re.sub("%s|%d|%.1f", "\0", each.value) for each in constants if isinstance(each.value, str))


def parts(message):
    found = (part.strip() for part in SEAMS.split(message))
    return [given[1] if (given := GIVEN.fullmatch(part)) else part for part in found if len(part) >= FEWEST]


def occurs(message):
    """Whether one file says all of it, but for what `elsa.errors` adds."""
    files = [path for folder in ("elsa", "hydra_plugins") for path in (ROOT / folder).rglob("*.py")]
    general = texts_of(ROOT / "elsa/errors.py")
    return any(all(part in texts_of(path) or part in general for part in parts(message)) for path in files)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_still_says_it(message):
    assert parts(message), "nothing of it is the code's own"
    assert occurs(message), f"no file says {parts(message)}"


def test_what_nobody_says_is_found_out():
    assert not occurs("model=…: its weights are quantized (…); give another one")
