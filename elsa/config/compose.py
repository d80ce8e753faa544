"""From overrides to Hydra's composed config, and from that to plain data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from elsa.config.choices import CONF, file_of, groups
from elsa.errors import UserError, did_you_mean, in_one_line, under
from elsa.files import content_hash, file_name
from elsa.method.registry import check_registered
from elsa.sparsity.levels import read_levels


def compose(*overrides: str, command: str = "prune") -> dict[str, Any]:
    """The config that the command line would give for these overrides, as plain data: the way in from Python.

    Raises `UserError` for what Hydra cannot compose.
    """
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return plain(hydra.compose(command, list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error, overrides)) from error


def plain(composed: DictConfig) -> dict[str, Any]:
    """Resolve all interpolations. A method named in `method.start` is replaced by that method's config, and so on; a
    file named in `sparsity.levels` by what it holds, so that a record needs no file.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    sparsity = config.get("sparsity")
    if isinstance(sparsity, dict) and isinstance(sparsity.get("levels"), str):
        with under("sparsity"):
            sparsity["levels"] = read_levels("levels", Path(sparsity["levels"]))
    method, key = config.get("method"), "method.start"
    while isinstance(method, dict):
        name = method.get("start")
        if isinstance(name, str):
            file_of("method", name, key)  # or it raises
            method["start"] = OmegaConf.to_container(hydra.compose(f"method/{name}").method, resolve=True)
        method, key = method.get("start"), f"{key}.start"
    return config


def one_line(error: Exception, arguments: Iterable[str]) -> str:
    """What Hydra has to say of a config with these arguments, in one line."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "method":
            check_registered(name, group)
        return f"{group}={name}: no such choice; {did_you_mean(name, error.options)}"
    node, full_key = getattr(cause, "parent_node", None), str(getattr(cause, "full_key", ""))
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and node is not None:
        known = [str(key) for key in node if key != "_target_"]
        group = full_key.split(".")[0]
        if group in groups() and any(argument.startswith(f"{group}=") and "," in argument for argument in arguments):
            return f"{full_key}: not a key of every {group}; in a sweep over {group} write ++{full_key}=..."
        line = f"{full_key}: no such key; {did_you_mean(str(cause.key), known)}"
        left_out = "_target_" in node and "did you mean" not in line
        return line + (f"; a key of its class that its YAML leaves out: +{full_key}=..." if left_out else "")
    return in_one_line(str(error) or cause)


def sweep_name(choices: DictConfig, overrides: list[str], params: DictConfig | None) -> str:
    """`<sweep or experiment>-<hash>` of a multirun's config: the same sweep has the same folder, so it can go on."""
    name = choices.get("sweep") or choices.get("experiment") or "multirun"
    swept = {} if params is None else OmegaConf.to_container(params)
    return f"{file_name(name)}-{content_hash([sorted(overrides), swept], 8)}"
