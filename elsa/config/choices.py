"""What can be chosen: the config folders, this project's and those of packages that add methods. Light: no Hydra."""

from pathlib import Path

from elsa.errors import did_you_mean, require
from elsa.method.registry import check_registered, config_folders

FORMATS = ("table", "tab", "json")  # of `elsa runs`, and what its list is sorted by
SORTED_BY = ("name", "model", "method", "sparsity", "perplexity", "seed", "age", "state", "size")
_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())


def choices(group: str) -> list[str]:
    """What can be chosen in a config group."""
    return [name for name in all_choices(group) if "/" not in name]


def all_choices(group: str) -> list[str]:
    """The same with those in folders of the group, as finetuned/wanda."""
    roots = [folder / group for folder in _folders()]
    return sorted(
        {path.relative_to(root).with_suffix("").as_posix() for root in roots for path in root.rglob("*.yaml")}
    )


def groups() -> list[str]:
    """The config groups of this project; Hydra's own stand in `hydra`."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")


def file_of(group: str, name: str, key: str) -> Path:
    """The YAML of a choice. Raises `UserError` for what is none; `key`: where the choice stands in the config."""
    check_registered(name, key)
    known = choices(group)
    require(name in known, key, name, did_you_mean(name, known))
    files = (folder / group / f"{name}.yaml" for folder in _folders())
    return next(path for path in files if path.is_file())


def _folders() -> list[Path]:
    return [CONF, *config_folders()]
