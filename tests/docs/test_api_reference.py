"""The API reference names what there is, and its docstrings say what every argument is."""

import dataclasses
import doctest
import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

import elsa
from elsa import methods
from elsa.sparsity.pattern import Pattern

PAGES = Path(__file__).parents[2] / "docs/reference/api"
BLOCK = re.compile(r"^::: ([\w.]+)\n(?:    options: (\{.*\})\n)?", re.MULTILINE)


def found(path):
    """The object of a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except AttributeError:  # a module
        return import_module(path)


@cache
def documented():
    """{path: members that its page shows, None for all} of every block of every page."""
    blocks = (each for page in sorted(PAGES.glob("*.md")) for each in BLOCK.findall(page.read_text()))
    return {path: yaml.safe_load(options or "{}").get("members") for path, options in blocks}


def described(path):
    """(path, object, the docstrings that may name its arguments) of what a page shows under this path."""
    thing, members = found(path), documented()[path]
    if not inspect.isclass(thing):
        yield path, thing, [own_docstring(thing)]
        return
    yield path, thing, [own_docstring(each) for each in thing.__mro__[:-1]]
    public = [name for name in vars(thing) if not name.startswith("_")] if members is None else members or []
    for name in public:
        member = inspect.getattr_static(thing, name)
        if callable(member) or isinstance(member, (property, classmethod, staticmethod)):
            inherited = [own_docstring(vars(each)[name]) for each in thing.__mro__ if name in vars(each)]
            yield f"{path}.{name}", member, [*inherited, own_docstring(thing)]


def own_docstring(thing):
    """What somebody has written: a dataclass without docstring gets one that is its signature."""
    text = inspect.cleandoc(thing.__doc__ or "")
    return "" if inspect.isclass(thing) and text.startswith(f"{thing.__name__}(") else text


def arguments(thing):
    if isinstance(thing, property) or inspect.ismodule(thing):
        return []
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing) if field.init]
    if inspect.isclass(thing) and (thing.__init__ is object.__init__ or getattr(thing, "_is_protocol", False)):
        return []
    try:
        names = inspect.signature(getattr(thing, "__func__", thing)).parameters
    except ValueError:  # an exception's
        return []
    return [name for name in names if name not in ("self", "cls")]


def named(argument, docstring):
    entry = rf"^    \**{argument}: \S|`{argument}`|`{argument}\("
    return re.search(entry, docstring, re.MULTILINE) is not None


@pytest.mark.parametrize("path", documented())
def test_the_docstring_is_there_and_names_every_argument(path):
    for its_path, thing, docstrings in described(path):
        assert docstrings[0], f"{its_path} has no docstring"
        missing = [each for each in arguments(thing) if not any(named(each, text) for text in docstrings)]
        assert not missing, f"{its_path} does not say what {', '.join(missing)} is"


def test_every_public_name_has_its_place():
    objects = [found(path) for path in documented()]
    public = {name: getattr(elsa, name) for name in elsa.__all__ if name not in ("__version__", "methods")}
    public |= {f"methods.{name}": getattr(methods, name) for name in methods.__all__}
    assert [name for name, thing in public.items() if thing not in objects] == []


def test_the_examples_give_what_they_say():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for path in documented():
        thing = found(path)
        names = vars(import_module(thing.__module__)) if not inspect.ismodule(thing) else {}
        for example in finder.find(thing, path, globs=names | {"elsa": elsa, "torch": torch, "Pattern": Pattern}):
            runner.run(example)
    tried = runner.summarize(verbose=False)
    assert (tried.failed, tried.attempted > 8) == (0, True)
