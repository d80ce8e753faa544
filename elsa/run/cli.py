"""The program `elsa`: pick the subcommand, run it, turn every user's mistake into one line and exit 2."""

import re
import sys

from elsa.config.choices import choices, groups
from elsa.errors import OUT_OF_MEMORY, Stopped, UserError, did_you_mean

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
    try:
        _run(sys.argv[1:])
    except UserError as error:
        _leave(_one_line(error), 2)
    except Stopped as stopped:
        _leave(str(stopped), stopped.exit_code)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _leave(f"out of memory: {_one_line(error)}; elsa plan says what would fit", OUT_OF_MEMORY)


def _run(arguments: list[str]) -> None:
    """Help and the mistakes that can be seen in the words alone are answered without Hydra."""
    wants_help = not arguments or bool({"-h", "--help"}.intersection(arguments))
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "prune"
    if wants_help:
        print(_help())
        return
    if arguments and arguments[0][0] not in "-+~" and "=" not in arguments[0]:
        raise UserError(f"{arguments[0]}: no such command; {did_you_mean(arguments[0], COMMANDS)}")
    for argument in arguments:
        _check_choice(argument)
    from elsa.run.start import start

    start(command, arguments)


def _check_choice(argument: str) -> None:
    """Hydra answers a choice that is null or a number with a traceback; say what the choices are instead."""
    group, _, name = argument.partition("=")
    if group in groups() and re.fullmatch(r"null|true|false|[\d._]+", name):
        raise UserError(f"{argument}: no such choice; {did_you_mean(name, choices(group))}")


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch has a class for a GPU's memory, and only words for the CPU's."""
    return type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _leave(line: str, code: int) -> None:
    print(f"elsa: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


def _help() -> str:
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
