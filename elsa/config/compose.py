"""The config folder, and the step from Hydra's composed config to plain data."""

from collections.abc import Iterable
from pathlib import Path

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from elsa.errors import UserError, did_you_mean, require

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())


def compose(*overrides: str, command: str = "prune") -> dict:
    """The config that the command line would give for these overrides, as plain data: the way in from Python.

    Raises `UserError` for what Hydra cannot compose.
    """
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return plain(hydra.compose(command, list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error, overrides)) from error


def plain(composed: DictConfig) -> dict:
    """Resolve all interpolations. A method named in `method.start` is replaced by that method's config."""
    config = OmegaConf.to_container(composed, resolve=True)
    name = config.get("method", {}).get("start")
    if isinstance(name, str):
        known = choices("method")
        require(name in known, "method.start", name, did_you_mean(name, known))
        config["method"]["start"] = OmegaConf.to_container(OmegaConf.load(CONF / "method" / f"{name}.yaml"))
    return config


def choices(group: str) -> list[str]:
    """What can be chosen in a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def groups() -> list[str]:
    """The config groups of this project; Hydra's own stand in `hydra`."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")


def one_line(error: Exception, arguments: Iterable[str]) -> str:
    """What Hydra or we have to say of a config with these arguments, in one line."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name}: no such choice; {did_you_mean(name, error.options)}"
    if isinstance(cause, ConfigKeyError | AttributeError) and getattr(cause, "parent_node", None) is not None:
        known = [str(key) for key in cause.parent_node if key != "_target_"]
        group = cause.full_key.split(".")[0]
        if any(argument.startswith(f"{group}=") and "," in argument for argument in arguments):
            return f"{cause.full_key}: not a key of every {group}; in a sweep over {group} write ++{cause.full_key}=..."
        return f"{cause.full_key}: no such key; {did_you_mean(str(cause.key), known)}"
    return " ".join(str(error).split())
