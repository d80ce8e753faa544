"""`elsa doctor`: whether the same arguments to `elsa prune` would find all they need here, in seconds."""

from collections.abc import Callable
from importlib.metadata import version

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import Check, describe_hub, prune_checks
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig
from elsa.errors import UserError


def doctor(composed: DictConfig) -> None:
    """Print a line per check with what was found. Raises `UserError` if one would stop the run."""
    run = build(PruneConfig, plain(composed))
    hub.use_mirror(run.paths.mirror)
    checks = [*prune_checks(run), Check("hub", describe_hub), Check("libraries", _libraries)]
    table, missing = Table(show_header=False), list[str]()
    for check in checks:
        if check.slow and missing:
            table.add_row("", check.name, "not looked at: mend the others first")
            continue
        found, answer = _answer(check.look)
        missing += [] if found else [check.name]
        table.add_row("ok" if found else "MISSING", check.name, answer)
    Console(width=140, markup=False).print(table)
    if missing:
        raise UserError(f"doctor: {', '.join(missing)} would stop this run")
    print("ready")


def _answer(look: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, look()
    except UserError as error:
        return False, str(error)


def _libraries() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lm_eval"))
