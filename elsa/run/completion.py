"""`elsa completion <shell>`: a script that completes commands, config groups and their choices, and keys.

The shell asks anew at every key, so the config files are read as plain YAML: neither Hydra nor torch is imported.
argcomplete and shtab complete the options of an argparse parser, of which this program has none.
"""

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from elsa.config.choices import CONF, FORMATS, SORTED_BY, all_choices, groups
from elsa.errors import UserError, did_you_mean
from elsa.method.registry import config_folders
from elsa.record import STATES

ASKED = "candidates"  # in the place of a shell: what the scripts call
SHELLS = ("bash", "zsh", "fish")
_OF_RUNS = ("checkpoint", "record", "records", "compare", "delete", "keep", "unkeep", "name")
_KNOWN = {"sort": SORTED_BY, "format": FORMATS, "state": STATES}  # values of keys of `elsa runs`
_LAUNCHER = "hydra/launcher"
_LIKE_PRUNE = ("plan", "doctor", "fetch")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def script(shell: str) -> str:
    """What the shell evaluates. Raises `UserError` for another shell."""
    if shell not in SHELLS:
        raise UserError(f"completion {shell}".rstrip() + f": no such shell; {did_you_mean(shell, SHELLS)}")
    return (Path(__file__).parent / "completions" / f"elsa.{shell}").read_text(encoding="utf-8")


def candidates(line: str, commands: Iterable[str], flags: Iterable[str]) -> list[str]:
    """The words that the last one of a command line may become. What ends with "=" or "." goes on."""
    words = [*line.split(), *([""] if line[-1:].isspace() else [])][1:] or [""]
    *before, word = words
    command = before[0] if before and before[0] in commands else "prune"
    if command == "completion":
        return [shell for shell in SHELLS if shell.startswith(word)]
    if word.startswith("-"):
        return [flag for flag in flags if flag.startswith(word)]
    key, sign, value = word.partition("=")
    given = dict(each.lstrip("+").split("=", 1) for each in before if "=" in each)
    if sign:
        return [f"{key}={each}" for each in _values(command, key.lstrip("+"), value, given)]
    first = [each for each in commands if each.startswith(word)] if not before else []
    plus = key[: len(key) - len(key.lstrip("+"))]
    return [*first, *(f"{plus}{each}" for each in _keys(_tree(command, given), key.lstrip("+")))]


def _keys(tree: Mapping[str, Any], typed: str) -> Iterator[str]:
    above, dot, last = typed.rpartition(".")
    for name, inner in sorted(((str(name), inner) for name, inner in _at(tree, above).items()), key=itemgetter(0)):
        if name.startswith(last):
            if above or isinstance(inner, _Group) or not isinstance(inner, Mapping):
                yield f"{above}{dot}{name}="
            if isinstance(inner, Mapping) and inner and name != _LAUNCHER:
                yield f"{above}{dot}{name}."


def _values(command: str, key: str, typed: str, given: Mapping[str, str]) -> list[str]:
    """The values of a key, each with what was typed of a list before its last item."""
    end = max(typed.rfind(","), typed.rfind("["), -1) + 1
    listed, last = typed[:end], typed[end:]
    outputs = Path(given.get("paths.outputs", "outputs"))
    tree = _tree(command, given)
    above, _, name = key.rpartition(".")
    default = _at(tree, above).get(name)
    known: Iterable[str] = ()
    if isinstance(default, _Group):
        known = all_choices(default.group)
    elif command == "runs" and name in ("model", "method"):
        known = all_choices(name)
    elif name == "start" and key.startswith("method."):
        known = (each for each in all_choices("method") if "/" not in each)
    elif isinstance(default, bool):
        known = ("true", "false")
    elif command == "runs" and name in _KNOWN:
        known = _KNOWN[name]
    elif command == "status" and name == "sweep":
        known = _folders(outputs / "sweeps")
    elif name in _OF_RUNS:
        in_full = command != "runs"  # elsewhere a path is wanted
        known = (str(outputs / "runs" / each) if in_full else each for each in _folders(outputs / "runs"))
    taken = set(listed.strip("[,").split(","))
    return [f"{listed}{each}" for each in sorted(known) if each.startswith(last) and each not in taken]


def _folders(above: Path) -> list[str]:
    return [each.name for each in above.glob("[!.]*") if each.is_dir()]


# --- the config that a command line means


class _Group(dict[str, Any]):
    """The keys of a config group's choice."""

    group: str


def _tree(command: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The keys that a command knows, with those of the choices that are made on its line."""
    content = _read(CONF / f"{'prune' if command in _LIKE_PRUNE else command}.yaml")
    tree: dict[str, Any] = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    tree |= tree.pop("only", {})  # as its keys are written
    chosen: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            group, name = next(iter(entry.items()))
            chosen[group.removeprefix("override ")] = name
    for group in ("experiment", "sweep"):
        file = _file(group, given.get(group, ""))
        for key, name in () if file is None else _defaults(_read(file)):
            chosen[key.removeprefix("/")] = name
    for group, name in chosen.items():
        named = given.get(group, name or "").split(",")[0]
        node = _Group({} if group in ("experiment", "sweep") else _node(group, named))
        node.group = group
        if group == _LAUNCHER:
            tree |= {_LAUNCHER: node, "hydra": {"launcher": dict(node)}}
        elif group in groups():
            tree[group] = node
    return tree


def _node(group: str, name: str) -> dict[str, Any]:
    """The keys of a choice, with those of the choices that it is made of, or that it puts into its own keys."""
    file = _file(group, name)
    content, node = {} if file is None else _read(file), dict[str, Any]()
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            _merge(node, _node(group, entry))
    for key, inner in _defaults(content):
        its_group, _, package = key.removeprefix("/").partition("@")
        if package and isinstance(inner, str):
            *above, last = package.split(".")
            place = node
            for part in above:
                place = place.setdefault(part, {})
            place[last] = _node(its_group, inner)
    _merge(node, {key: value for key, value in content.items() if key not in ("defaults", "_target_")})
    return node


def _merge(node: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(node.get(key), dict) and isinstance(value, dict):
            _merge(node[key], value)
        else:
            node[key] = value


def _defaults(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            key, value = next(iter(entry.items()))
            yield str(key).removeprefix("override "), value


def _at(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    node: Any = tree
    for name in key.split(".") if key else []:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _file(group: str, name: str) -> Path | None:
    files = (folder / group / f"{name}.yaml" for folder in (CONF, *config_folders()))
    return next((path for path in files if path.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    """A YAML file of this project or of a package with methods; nothing if it is broken, of which a run will tell."""
    try:
        found = _LOADER(path.read_text(encoding="utf-8")).get_single_data() if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
