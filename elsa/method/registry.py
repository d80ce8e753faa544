"""Which methods there are: those of this folder, and those that other packages add by an entry point.

A package adds the method `mine` with `[project.entry-points."elsa.methods"] mine = "package.module:Class"` and
`conf/method/mine.yaml` inside the package of the class, whose `_target_` is the class. Nothing is imported to know it.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "elsa.methods"
_BUILT_IN = "elsa.method."


@cache
def added() -> dict[str, EntryPoint]:
    """The entry points of other packages by the method's name."""
    return {each.name: each for each in sorted(entry_points(group=GROUP), key=lambda each: each.name)}


def packages() -> dict[str, str]:
    """{name of an added method: the top-level package that its class is in}."""
    return {name: each.module.partition(".")[0] for name, each in added().items()}


def registered_name(kind: type) -> str:
    """The name under which a class is chosen: `method=<name>`. The class's own name if it was never registered."""
    if kind.__module__.startswith(_BUILT_IN):
        return kind.__module__.removeprefix(_BUILT_IN)
    target = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, each in added().items() if each.value == target), kind.__name__.lower())
