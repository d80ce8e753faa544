"""What decides a result, as hashes: the question that was asked, and the code that answered it.

Two runs share a result only if both are equal. Where text, weights or evaluation sets come from files, it is their
content that counts, never their path.
"""

import ast
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from elsa.files import content_hash

NOT_NAMED = {"named": False}  # of a dataclass's field: at its default it is no part of a question
_WITHOUT_EFFECT = ("elsa.errors", "elsa.track")  # words, bars and logs: nothing there can change a number
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


class Key(NamedTuple):
    """`question`: what was asked. `code`: what answered: our modules that can change the result, and the libraries."""

    question: str
    code: str

    def __str__(self) -> str:
        return f"{self.question}-{self.code}"

    @classmethod
    def of(cls, question: object, things: object) -> "Key":
        """`things`: the objects that do the work, however nested."""
        return cls(content_hash(question), content_hash([code_hash(_modules(things)), _versions()], 6))


def described(thing: Any) -> Any:
    """A dataclass as JSON: its class's name as `type`, and its fields as they were built, numbers in their type."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        values = {f.name: described(getattr(thing, f.name)) for f in dataclasses.fields(thing) if _counts(thing, f)}
        return {"type": type(thing).__name__} | values
    if isinstance(thing, Mapping):
        return {key: described(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [described(value) for value in thing]
    return thing


def _counts(thing: Any, field: "dataclasses.Field[Any]") -> bool:
    """A knob that came later does not change what runs without it are called."""
    return bool(field.metadata.get("named", True)) or getattr(thing, field.name) != field.default


def code_hash(modules: Iterable[str]) -> str:
    """Hash of these modules and of all that they import of their own packages; comments and docstrings do not count."""
    waiting, seen = set(modules), set[str]()
    roots = {module.partition(".")[0] for module in waiting}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        _, imported = _parsed(module)
        wanted = {each for each in imported if each.partition(".")[0] in roots}
        waiting |= {each for each in wanted if not each.startswith(_WITHOUT_EFFECT)} - seen
    return content_hash({module: _parsed(module)[0] for module in seen}, 64)


@cache
def _parsed(module: str) -> tuple[str, frozenset[str]]:
    """Hash of a module's syntax tree, and the modules that it may import."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return "", frozenset()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    own = module.partition(".")[0]
    within = (each for each in _imports(tree) if each.partition(".")[0] in (own, "elsa"))
    imported = frozenset(each for each in within if each != "elsa" and _is_module(each))  # its front names all else
    for node in ast.walk(tree):
        _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _imports(tree: ast.Module) -> Iterator[str]:
    """Every name that could be a module: `from a import b` may mean a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a.b.C, where a.b is a module and C a class
        return False


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and body and ast.get_docstring(node) is not None:
        body.pop(0)


def _modules(things: Any) -> set[str]:
    """The modules of all dataclasses in an object, however nested."""
    if dataclasses.is_dataclass(things) and not isinstance(things, type):
        fields = (getattr(things, field.name) for field in dataclasses.fields(things))
        return {type(things).__module__}.union(*map(_modules, fields))
    if isinstance(things, Mapping):
        return set().union(*map(_modules, things.values()))
    if isinstance(things, (list, tuple)):
        return set().union(*map(_modules, things))
    return set()


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "absent"
    return found
