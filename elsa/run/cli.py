"""The program `elsa`: pick the subcommand, run its Hydra main, turn every user's mistake into one line and exit 2."""

import logging
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elsa.config.compose import one_line
from elsa.errors import OUT_OF_MEMORY, Stopped, UserError, did_you_mean
from elsa.log import show_on_console

COMMANDS = {
    "prune": "prune a model, evaluate it and keep the record (the default)",
    "plan": "what the same arguments to prune would need in memory and time, before anything is loaded",
    "doctor": "whether the same arguments to prune would find all they need here",
    "fetch": "copy what the same arguments to prune need from the hub to paths.mirror",
    "evaluate": "score a saved model",
    "reproduce": "run a record again as it was, and say whether the bits are the same",
    "dashboard": "the Weights & Biases dashboard of a project, as code",
    "status": "the runs of the last sweep, and how far they are",
    "report": "tables, pictures and a page of finished runs or a sweep, averaged over seeds",
}


def main() -> None:
    """Entry point."""
    arguments = sys.argv[1:]
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "prune"
    if len(sys.argv) == 1 or {"-h", "--help"}.intersection(arguments):
        print(_help())
        return
    if arguments and arguments[0][0] not in "-+~" and "=" not in arguments[0]:
        _fail(f"{arguments[0]}: no such command; {did_you_mean(arguments[0], COMMANDS)}")
    for argument in arguments:
        _check_choice(argument)
    show_on_console()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    if "--cfg" in arguments or "-c" in arguments:
        arguments.append("--resolve")
    sys.argv = ["elsa", *arguments]
    stopped_by: list[Exception] = []
    try:
        _hydra_main(command, stopped_by)()
        for error in stopped_by:
            raise error
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _fail(one_line(error, arguments))
    except Stopped as stopped:
        _leave(str(stopped), stopped.exit_code)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _leave(f"out of memory: {one_line(error, arguments)}; elsa plan says what would fit", OUT_OF_MEMORY)


def _check_choice(argument: str) -> None:
    """Hydra answers a choice that is null or a number with a traceback; say what the choices are instead."""
    from elsa.config.compose import choices, groups

    group, _, name = argument.partition("=")
    if group in groups() and re.fullmatch(r"null|true|false|[\d._]+", name):
        _fail(f"{argument}: no such choice; {did_you_mean(name, choices(group))}")


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch has a class for a GPU's memory, and only words for the CPU's."""
    return type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)


def _hydra_main(command: str, stopped_by: list[Exception]) -> Callable:
    """Import the subcommand only now, so that help and typos cost nothing. What ends it goes into `stopped_by`."""
    for library in ("torchao", "torch.utils._pytree"):  # of no concern to a user, and printed on every start
        logging.getLogger(library).setLevel(logging.ERROR)
    import hydra
    from transformers.utils import logging as transformers_logging

    from elsa.config.compose import CONF
    from elsa.config.identity import sweep_name

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    job = getattr(import_module(f"elsa.run.{command}"), command)

    def guarded(composed):
        """Hydra prints a line of its own for an error that reaches it."""
        try:
            job(composed)
        except Exception as error:
            stopped_by.append(error)

    return hydra.main(
        version_base="1.3",
        config_path=str(CONF),
        config_name="prune" if command in ("plan", "doctor", "fetch") else command,
    )(guarded)


def _fail(line: str) -> None:
    _leave(line, 2)


def _leave(line: str, code: int) -> None:
    print(f"elsa: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


def _help() -> str:
    from elsa.config.compose import choices, groups

    lines = ["usage: elsa [command] [group=choice ...] [key=value ...] [-m]", "", "commands:"]
    lines += [f"  {name:<12}{what}" for name, what in COMMANDS.items()]
    lines += ["", "config groups and their choices:"]
    lines += [f"  {group:<12}{', '.join(choices(group))}" for group in groups()]
    lines += [
        "", "flags (Hydra's):",
        "  -m           one run per combination of comma-separated values, a process each, then a table and a picture",
        "  --cfg job    print the resolved config and stop", "",
        "examples:", "  elsa experiment=quickstart", "  elsa method=wanda sparsity=2of4",
        "  elsa -m method=wanda,elsa sparsity.ratio=0.5,0.9", "  elsa evaluate checkpoint=outputs/runs/<run>",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
