"""From overrides to Hydra's composed config, and from that to plain data."""

import hydra
from omegaconf import DictConfig, OmegaConf

from elsa.config.choices import CONF, file_of
from elsa.files import content_hash


def compose(*overrides: str, command: str = "prune") -> dict:
    """The config that the command line would give for these overrides, as plain data: the way in from Python."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra.compose(command, list(overrides)))


def plain(composed: DictConfig) -> dict:
    """Resolve all interpolations. A method named in `method.start` is replaced by that method's config."""
    config = OmegaConf.to_container(composed, resolve=True)
    name = config.get("method", {}).get("start")
    if isinstance(name, str):
        path = file_of("method", name, "method.start")
        config["method"]["start"] = OmegaConf.to_container(OmegaConf.load(path))
    return config


def sweep_name(choices: DictConfig, overrides: list[str], params: DictConfig | None) -> str:
    """`<sweep or experiment>-<hash>` of a multirun's config: the same sweep has the same folder, so it can go on."""
    name = choices.get("sweep") or choices.get("experiment") or "multirun"
    swept = {} if params is None else OmegaConf.to_container(params)
    return f"{name}-{content_hash([sorted(overrides), swept], 8)}"
