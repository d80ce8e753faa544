"""From a command and its arguments to its job, through Hydra. The job's module is imported once the config stands."""

import errno
import gc
import logging
import os
import sys
from importlib import import_module
from types import ModuleType

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elsa.config.choices import CONF
from elsa.config.compose import one_line, sweep_name
from elsa.errors import UserError
from elsa.log import show_on_console

_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR,
    errno.EISDIR,
)  # fmt: skip
_LIKE_PRUNE = ("plan", "doctor", "fetch")  # take the same arguments


def start(command: str, arguments: list[str]) -> None:
    """Run a subcommand. Raises `UserError` for what Hydra refuses."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    quiet(command)
    show_on_console()
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    shows_run = {f"{flag}={what}" for flag in ("-c", "--cfg") for what in ("job", "all")}.intersection(arguments)
    resolved = ["--resolve"] if shows_run else []  # Hydra's settings alone refer to what is not among them
    sys.argv = ["elsa", *arguments, *resolved]
    try:
        _compose_and_run(command)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error, arguments)) from error
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise UserError(f"{error.filename or 'a file of this run'}: {error.strerror}") from error


def quiet(command: str) -> None:
    """What libraries say of themselves on every start is of no concern to a user; how far a download is, is."""
    for library in ("torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # read at its import, which may never come
    if command != "fetch" or not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def load(command: str) -> ModuleType:
    """The module of a subcommand. Its import takes seconds, a fifth of which Python would look for garbage."""
    gc.disable()
    try:
        return import_module(f"elsa.run.{command}")
    finally:
        gc.enable()


def _compose_and_run(command: str) -> None:
    stopped_by: list[Exception] = []

    def guarded(composed: DictConfig) -> None:
        """Hydra prints a line of its own for an error that reaches it."""
        try:
            getattr(load(command), command)(composed)
        except Exception as error:
            stopped_by.append(error)

    guarded.command = command  # type: ignore[attr-defined] # read by the launchers
    name = "prune" if command in _LIKE_PRUNE else command
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(guarded)()
    for error in stopped_by:
        raise error
