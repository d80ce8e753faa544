"""The config folder, and the step from Hydra's composed config to plain data."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from elsa.errors import did_you_mean, require

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())


def compose(*overrides: str, command: str = "prune") -> dict:
    """The config that the command line would give for these overrides, as plain data: the way in from Python."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra.compose(command, list(overrides)))


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
