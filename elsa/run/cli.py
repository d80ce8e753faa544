"""The program `elsa`: pick the subcommand, run it, turn every user's mistake into one line and exit 2."""

import os
import re
import select
import signal
import sys

from elsa import __version__
from elsa.config.choices import choices, groups
from elsa.errors import (
    LOST_RANK,
    OUT_OF_MEMORY,
    AgreedError,
    Stopped,
    UserError,
    did_you_mean,
    in_one_line,
    require,
)
from elsa.log import LAUNCHER, is_first

_FLAGS = ("-m", "--multirun", "--resolve", "--hydra-help", "-i", "--info")  # those of Hydra's that mean something here
_FLAGS_WITH_VALUE = (
    "-c",
    "--cfg",
    "-p",
    "--package",
    "-cp",
    "--config-path",
    "-cn",
    "--config-name",
    "-cd",
    "--config-dir",
)
_ACTS = {"-m": "-m", "--multirun": "-m", "-c": "--cfg", "--cfg": "--cfg", "-i": "--info", "--info": "--info"}
_FILTERS = ("name", "model", "method", "sparsity", "seed", "state", "older_than")  # of runs: keys of `only`
_OF_CFG = ("--resolve", "-p", "--package")
_OUT_OF_MEMORY_WORDS = (
    "not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "alloc_failed",
    "allocation failed",
)  # fmt: skip

COMMANDS = {
    "prune": "prune a model, evaluate it and keep the record (the default)",
    "plan": "what the same arguments to prune would need in memory and time, before anything is loaded",
    "doctor": "whether the same arguments to prune would find all they need here",
    "fetch": "copy what the same arguments to prune need from the hub to paths.mirror",
    "evaluate": "score a saved model",
    "generate": "what a saved model says after a prompt, beside its dense one",
    "export": "a saved model in fewer bytes: sparse, or dense for other programs",
    "push": "an exported model to the Hugging Face hub, with a card made from its record",
    "bench": "how fast a saved model decodes, dense and sparse, and in how many bytes",
    "reproduce": "run a record again as it was, and say whether the bits are the same",
    "dashboard": "the Weights & Biases dashboard of a project, as code",
    "status": "the runs of the last sweep, and how far they are",
    "runs": "what runs there are, two of them side by side, and which of them go or stay",
    "report": "tables, pictures and a page of finished runs or a sweep, averaged over seeds",
    "completion": 'a script for bash, zsh or fish that completes all this: eval "$(elsa completion bash)"',
}


def main() -> None:
    """Entry point."""
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        if _is_read():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python flushes what is left
        sys.exit(128 + signal.SIGPIPE)
    except UserError as error:
        _leave(in_one_line(error), error.exit_code, silent=isinstance(error, AgreedError) and not is_first())
    except Stopped as stopped:
        _leave(str(stopped), stopped.exit_code, silent=not is_first())
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            _leave(f"out of memory: {in_one_line(error)}; elsa plan says what would fit", OUT_OF_MEMORY)
        if not _is_loss(error):
            raise
        _leave(f"another rank has gone ({in_one_line(error, 200)})", LOST_RANK, silent=LAUNCHER in os.environ)


def _is_read() -> bool:
    """Whether anybody reads what is printed: not so in `elsa report | head`, once it has its lines."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def _is_loss(error: Exception) -> bool:
    """Whether an error of torch.distributed says that another rank has gone: it has a class, or gloo's own words."""
    return "DistError" in {each.__name__ for each in type(error).__mro__} or "gloo" in str(error)


def _run(arguments: list[str]) -> None:
    """Help and the mistakes that can be seen in the words alone are answered without Hydra."""
    if "--version" in arguments:
        print(f"elsa {__version__}")
        return
    wants_help = not arguments or bool({"-h", "--help"}.intersection(arguments))
    named = bool(arguments) and arguments[0] in COMMANDS
    command = arguments.pop(0) if named else "prune"
    if wants_help:
        print(_help())
        return
    if command == "completion":
        for line in _completed(arguments):
            print(line)
        return
    flags, overrides = _sorted(arguments)
    if command == "runs":
        overrides = [_as_filter(override) for override in overrides]
    for number, override in enumerate(overrides):
        _check_form(override, first=number == 0 and not named)
        _check_choice(override)
    from elsa.run.start import start

    start(command, [*flags, *(map(_as_text, overrides) if command == "generate" else overrides)])


def _completed(arguments: list[str]) -> list[str]:
    """The script of a shell, or what it asks then."""
    from elsa.run.completion import ASKED, candidates, script

    if arguments[:1] == [ASKED]:
        return candidates(arguments[-1], COMMANDS, (*_FLAGS, *_FLAGS_WITH_VALUE, "--help", "--version"))
    return [script(" ".join(arguments))]


def _sorted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, which it wants before all others, and the rest."""
    flags: dict[str, str | None] = {}
    overrides, waiting, known = list[str](), list(arguments), (*_FLAGS, *_FLAGS_WITH_VALUE)
    while waiting:
        argument = waiting.pop(0)
        name, sign, value = argument.partition("=")
        if not name.startswith("-") or name == "-":
            overrides.append(argument)
            continue
        if name not in known:
            raise UserError(f"{name}: no such flag; {did_you_mean(name, known)}")
        if name in _FLAGS_WITH_VALUE and not sign:
            require(bool(waiting), name, "nothing", "this flag takes a value")
            value = waiting.pop(0)
        flags[name] = value or None
    _check_flags(flags)
    return [f"{name}={value}" if value else name for name, value in flags.items()], overrides


def _check_flags(flags: dict[str, str | None]) -> None:
    acts = sorted({_ACTS[name] for name in flags if name in _ACTS})
    if len(acts) > 1:
        raise UserError(f"{' '.join(acts)}: one of them at a time")
    without = next((name for name in flags if name in _OF_CFG and "--cfg" not in acts), None)
    if without is not None:
        raise UserError(f"{without}: goes with --cfg alone")
    for name in ("-c", "--cfg"):
        shown = flags.get(name, "job")
        require(shown in ("job", "hydra", "all"), name, shown, "known: job, hydra, all")


def _check_form(override: str, *, first: bool) -> None:
    key, sign, _ = override.partition("=")
    if key.strip("+~ ") and (sign or key.startswith("~")):
        return
    if override in COMMANDS:
        raise UserError(f"{override}: a command stands first, and there is one")
    if first and override:
        raise UserError(f"{override}: no such command; {did_you_mean(override, COMMANDS)}")
    raise UserError(f"{override!r}: no setting; key=value is wanted, for example method=wanda")


def _as_text(override: str) -> str:
    """A prompt as Hydra reads text, whatever is in it. A list, and what begins with a quote, is left as it is."""
    key, _, value = override.partition("=")
    if key != "prompt" or value[:1] in ("[", "'", '"', ""):
        return override
    whole = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)  # no interpolation
    return "prompt='" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), whole) + "'"


def _as_filter(override: str) -> str:
    """`method=wanda` asks for runs here, where it chooses a config elsewhere."""
    return f"only.{override}" if override.partition("=")[0] in _FILTERS else override


def _check_choice(argument: str) -> None:
    """Hydra answers a choice that is null or a number with a traceback; say what the choices are instead."""
    group, _, name = argument.partition("=")
    if group in groups() and re.fullmatch(r"null|true|false|[\d._]+|\[.*\]", name):
        raise UserError(f"{argument}: no such choice; {did_you_mean(name, choices(group))}")


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class for a GPU's memory, and only words for the CPU's and for that of CUDA's libraries."""
    by_class = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return by_class or any(words in str(error).lower() for words in _OUT_OF_MEMORY_WORDS)


def _leave(line: str, code: int, *, silent: bool = False) -> None:
    if not silent:
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
        "  elsa runs method=elsa sort=perplexity",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
