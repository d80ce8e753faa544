"""Which methods there are: those of this folder, and those that other packages add by an entry point.

A package adds the method `mine` with `[project.entry-points."elsa.methods"] mine = "package.module:Class"` and
`conf/method/mine.yaml` inside the top-level package, whose `_target_` is the class. Nothing is imported to know it.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from elsa.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "elsa.methods"
_BUILT_IN = "elsa.method."


@cache
def added() -> "dict[str, EntryPoint]":
    """The entry points of other packages by the method's name. Raises `UserError` for a name that cannot be told."""
    from importlib.metadata import entry_points  # late: elsa --version does without

    found: dict[str, EntryPoint] = {}
    for each in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        if each.name in found:
            both = " and ".join(sorted({_distribution(found[each.name]), _distribution(each)}))
            raise UserError(f"method={each.name}: {both} both register this name; uninstall one")
        if (Path(__file__).parent / f"{each.name}.py").is_file():
            raise UserError(f"method={each.name}: {_distribution(each)} registers the name of a built-in method")
        if not each.name.isidentifier():
            raise UserError(f"method={each.name}: {_distribution(each)} registers a name that is no word")
        found[each.name] = each
    return found


def packages() -> dict[str, str]:
    """{name of an added method: the top-level package that its class is in}."""
    return {name: each.module.partition(".")[0] for name, each in added().items()}


def config_folders() -> list[Path]:
    """The folders `conf` of the packages that add methods."""
    every = (_config_folder(package) for package in sorted(set(packages().values())))
    return [folder for folder in every if folder is not None and folder.is_dir()]


def check_registered(name: str, key: str) -> None:
    """Raise `UserError` if a package adds this method without its config. `key`: where it is chosen."""
    if name not in added():
        return
    package, by = packages()[name], _distribution(added()[name])
    folder = _config_folder(package)
    if folder is None:
        raise UserError(f"{key}={name}: {by} registers {added()[name].value}, but there is no package {package}")
    if not (folder / "method" / f"{name}.yaml").is_file():
        raise UserError(f"{key}={name}: {by} registers it, but {package} has no conf/method/{name}.yaml")


def registered_name(kind: type) -> str:
    """The name under which a class is chosen: `method=<name>`. Outside of all packages with methods: the class's own.

    Raises `UserError` for a class of such a package that no entry point names: its runs would have no name.
    """
    if kind.__module__.startswith(_BUILT_IN):
        return kind.__module__.removeprefix(_BUILT_IN)
    package = kind.__module__.partition(".")[0]
    entries = [added()[name] for name, its in packages().items() if its == package]
    if not entries:
        return kind.__name__.lower()
    for each in entries:
        if _class(each) is kind:
            return each.name
    registered = ", ".join(f"{each.name} = {each.value}" for each in entries)
    raise UserError(
        f"method._target_={kind.__module__}.{kind.__qualname__}: {_distribution(entries[0])} registers {registered}; "
        "entry point and YAML must name the same class"
    )


def _class(entry: "EntryPoint") -> object:
    """What an entry point names; None if that is not there."""
    try:
        return entry.load()
    except (ImportError, AttributeError):
        return None


def _config_folder(package: str) -> Path | None:
    """Found without importing the package; None if there is no such package."""
    spec = find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) / "conf" if places else None


def _distribution(entry: "EntryPoint") -> str:
    """The name of the installed package that an entry point is from."""
    return f"package {entry.dist.name}" if entry.dist else "a package"
