"""From a plain config to objects: each group is a dataclass named by `_target_`, its fields are the keys of the YAML.

Their annotations are the types, their defaults the values of keys that are not given. Each problem is one line: the
key, the value, what would be right.
"""

import dataclasses
import typing
from functools import cache
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from elsa.errors import UserError, did_you_mean, require
from elsa.method.registry import packages

T = TypeVar("T")
_LARGEST = {int: 2**63 - 1, float: 3.4e38}  # as torch takes them


def build(schema: type[T], config: dict[str, Any], key: str = "") -> T:
    """Build `schema` from a plain dict, recursively. `key`: where the dict stands in the config."""
    hints = _hints(schema)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    given = {name: value for name, value in config.items() if name != "_target_"}
    for name, value in given.items():
        require(name in fields, _join(key, name), value, f"no such key; {did_you_mean(name, fields)}")
    for name, field in fields.items():
        there = given[name] != "???" if name in given else _has_default(field)
        require(there, _join(key, name), "???", "must be given")
    values = {name: _value(value, hints[name], _join(key, name)) for name, value in given.items()}
    try:
        return schema(**values)
    except UserError as error:
        raise UserError(_join(key, str(error))) from error


@cache
def _hints(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _value(value: Any, hint: Any, key: str) -> Any:
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        item = typing.get_args(hint)[1]
        return {name: _value(child, item, _join(key, name)) for name, child in value.items()}
    if value is None and type(None) in typing.get_args(hint):
        return None
    if isinstance(value, dict) and "_target_" in value:
        require(isinstance(value["_target_"], str), f"{key}._target_", _shown(value["_target_"]), "a class is wanted")
        built: object = build(_locate(value["_target_"], key), value, key)
        wanted = tuple(typing.get_args(hint)) or hint
        require(isinstance(built, wanted), f"{key}._target_", type(built).__name__, "it does not belong in this group")
        return built
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(typing.cast(type, hint), value, key)
    if any(kind.__module__.startswith("elsa.") for kind in typing.get_args(hint) or (hint,)):
        raise UserError(f"{key}={_shown(value)}: a group of keys is wanted; elsa --help lists the choices")
    fits = type(value) not in _LARGEST or abs(value) <= _LARGEST[type(value)]  # which NaN does not
    require(fits, key, value, "a finite number is wanted")
    try:
        return _adapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(f"{key}={_shown(value)}: {error.errors()[0]['msg'].lower()}") from error


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _shown(value: Any) -> Any:
    return "null" if value is None else value


def _locate(target: object, key: str) -> type:
    """The class of that name, in this package or in one that has registered a method."""
    module, _, name = str(target).rpartition(".")
    package = module.partition(".")[0]
    known = bool(module) and package in {"elsa", *packages().values()}
    require(known, f"{key}._target_", target, "no dataclass of this package, or of one that registers a method")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise UserError(f"{key}._target_={target}: {module} cannot be imported ({error})") from error
    require(dataclasses.is_dataclass(found), f"{key}._target_", target, f"no dataclass of this package ({package})")
    return typing.cast(type, found)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
