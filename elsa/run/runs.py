"""`elsa runs`: the runs in a folder, two of them side by side, and which of them go or stay."""

import json
import math
import sys
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elsa.config.build import build
from elsa.config.commands import Only, RunsConfig
from elsa.config.compose import plain
from elsa.errors import UserError, did_you_mean, require
from elsa.files import explained, flattened, json_ready, remove
from elsa.record import STATES
from elsa.record.listing import Listed, is_kept, list_runs, set_kept
from elsa.track.progress import progress

_AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_SIZES = ("B", "kB", "MB", "GB", "TB")
_STYLES = {"finished": "green", "running": "cyan", "broken": "red"}  # others are dim
_NOT_COMPARED = ("paths", "hydra")  # of a config: they change no number
_WHOLE = ("model", "method", "sparsity", "seed", "age", "state", "size", "key")  # columns that are never cut
_LONGEST = 40  # characters of a value in a table


def runs(composed: DictConfig) -> None:
    """List, compare, delete or keep."""
    run = build(RunsConfig, plain(composed))
    outputs = Path(run.paths.outputs)
    found = list_runs(outputs)
    chosen = _sorted(_chosen(found, run.only), run.sort)
    form = run.format or ("table" if sys.stdout.isatty() else "tab")
    if run.compare:
        one, other = (_one(name, found, "compare") for name in run.compare)
        _print_comparison(one, other, form)
    elif run.delete:
        _delete(_named(_listed(run.delete), chosen, "delete"), form, asked=not run.yes)
    elif run.keep or run.unkeep:
        key = "keep" if run.keep else "unkeep"
        for each in _named(_listed(run.keep or run.unkeep), chosen, key):
            with explained(each.folder, "written to"):
                set_kept(each.folder, bool(run.keep))
            print(f"{each.name}: {'kept' if run.keep else 'may be deleted'}")
    else:
        _print_list(chosen, len(found), outputs, form)


def _chosen(found: Iterable[Listed], only: Only) -> list[Listed]:
    states = STATES if only.state is None else _listed(only.state)
    for state in states:
        require(state in STATES, "only.state", state, did_you_mean(str(state), STATES))
    oldest = math.inf if only.older_than is None else time.time() - 86400 * only.older_than
    globs = {"name": only.name, "model": only.model, "method": only.method}

    def fits(each: Listed) -> bool:
        for key, wanted in globs.items():
            text = getattr(each, key) or ""
            if wanted is not None and not any(fnmatchcase(text, glob) for glob in _listed(wanted)):
                return False
        fits_sparsity = only.sparsity is None or any(_has_sparsity(each, text) for text in _listed(only.sparsity))
        fits_seed = only.seed is None or each.seed in _listed(only.seed)
        return fits_sparsity and fits_seed and each.state in states and each.changed <= oldest

    return [each for each in found if fits(each)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _has_sparsity(each: Listed, wanted: str | float) -> bool:
    """By its name, as 90% or 2:4, or by the share of zeros that was asked for."""
    if each.sparsity is not None and fnmatchcase(each.sparsity, str(wanted)):
        return True
    try:
        return each.ratio is not None and math.isclose(each.ratio, float(wanted))
    except ValueError:
        return False


def _sorted(found: list[Listed], by: str) -> list[Listed]:
    """By a column, with "-" before it the largest first; what is not known of a run comes last."""
    column = by.removeprefix("-")
    known = [each for each in found if _column(each, column) is not None]
    known.sort(key=lambda each: (_column(each, column), each.name), reverse=by.startswith("-"))
    return known + [each for each in found if each not in known]


def _column(each: Listed, column: str) -> Any:
    """What a run is sorted by; None if it has none."""
    first = next(iter(each.perplexity.values()), None)
    of_runs = {"sparsity": each.counted, "perplexity": first, "age": time.time() - each.changed}
    return of_runs[column] if column in of_runs else getattr(each, column)


def _print_list(chosen: list[Listed], total: int, outputs: Path, form: str) -> None:
    sets = list(dict.fromkeys(name for each in chosen for name in each.perplexity))
    if form == "json":
        _print_json([_row(each) for each in chosen])
    elif form == "tab":
        headers = ["name", "model", "method", "sparsity", "counted", *(f"perplexity {name}" for name in sets)]
        lines = [[*headers, "seed", "state", "kept", "age_seconds", "bytes"]]
        for each in chosen:
            row = _row(each)
            cells = [row[key] for key in headers[:5]] + [row["perplexity"].get(name) for name in sets]
            lines.append([*cells, *(row[key] for key in ("seed", "state", "kept", "age_seconds", "bytes"))])
        for line in lines:
            print("\t".join("" if cell is None else str(cell) for cell in line))
    else:
        _print_table(chosen, sets)
        of_all = "" if len(chosen) == total else f" of {total}"
        print(f"{len(chosen)}{of_all} runs in {outputs}, {_size(sum(each.size for each in chosen))}")


def _print_table(chosen: list[Listed], sets: list[str]) -> None:
    headers = ["name", "model", "method", "sparsity", *(f"ppl {name}" for name in sets), "seed", "age", "state", "size"]
    table = _table(headers, left=("name", "model", "method", "state"))
    for each in chosen:
        name = Text(each.name, no_wrap=True, overflow="ellipsis")
        cells: list[str | Text] = [name, each.model or "--", each.method or "--", each.sparsity or "--"]
        cells += [f"{each.perplexity[name]:,.2f}" if name in each.perplexity else "--" for name in sets]
        state = Text(each.state, style=_STYLES.get(each.state, "dim"))
        state.append(", kept" if each.kept else "", style="bold")
        seed = "--" if each.seed is None else str(each.seed)
        table.add_row(*cells, seed, _age(time.time() - each.changed), state, _size(each.size))
    _console().print(table)


def _table(headers: list[str], left: Iterable[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True, pad_edge=False)
    for header in headers:
        justify: Literal["left", "right"] = "left" if header in left else "right"
        table.add_column(header, justify=justify, overflow="fold", no_wrap=header in _WHOLE)
    return table


def _console() -> Console:
    """Colour is rich's to decide: on a terminal, unless NO_COLOR is set."""
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)


def _print_json(content: object) -> None:
    print(json.dumps(json_ready(content), indent=2))


def _row(each: Listed) -> dict[str, Any]:
    return {
        "name": each.name, "model": each.model, "method": each.method, "sparsity": each.sparsity,
        "counted": each.counted, "perplexity": each.perplexity, "seed": each.seed, "state": each.state,
        "kept": each.kept, "age_seconds": round(time.time() - each.changed), "bytes": each.size,
        "folder": str(each.folder),
    }  # fmt: skip


def _age(seconds: float) -> str:
    length, unit = next((age for age in _AGES if seconds >= age[0]), _AGES[-1])
    return f"{max(seconds, 0) / length:.0f} {unit}"


def _size(count: float) -> str:
    """Bytes in units of a thousand, as in export and push."""
    unit = min(int(math.log10(count)) // 3 if count >= 1 else 0, len(_SIZES) - 1)
    return f"{count / 1000**unit:,.{0 if unit == 0 else 1}f} {_SIZES[unit]}"


# --- which ones


def _named(names: list[str], among: list[Listed], key: str) -> list[Listed]:
    """The runs of these names, each once."""
    return list({each.name: each for name in names for each in _of_name(name, among, key)}.values())


def _one(name: str, among: list[Listed], key: str) -> Listed:
    found = _of_name(name, among, key)
    if len(found) > 1:
        raise UserError(f"{key}={name}: {len(found)} runs have such a name; one is wanted")
    return found[0]


def _of_name(text: str, among: list[Listed], key: str) -> list[Listed]:
    """Those of a name, of the only name that begins so, or of a glob; a path to a run's folder counts as its name."""
    name = text if "/" not in text else _name_of_path(text, among)
    if any(mark in name for mark in "*?["):
        found = [each for each in among if fnmatchcase(each.name, name)]
    else:
        found = [each for each in among if each.name == name] or [
            each for each in among if name and each.name.startswith(name)
        ]
        if len(found) > 1:
            some = ", ".join(each.name for each in found[:3])
            raise UserError(f"{key}={text}: {len(found)} runs begin so ({some}, …); write {text}* if all are meant")
    if not found:
        raise UserError(f"{key}={text}: no such run; {did_you_mean(name, [each.name for each in among])}")
    return found


def _name_of_path(text: str, among: list[Listed]) -> str:
    path = Path(text).resolve()
    return next((each.name for each in among if each.folder.resolve() == path), text)


# --- two of them


def _print_comparison(one: Listed, other: Listed, form: str) -> None:
    differing = {
        "config": _differing(_config(one), _config(other)),
        "result": _both(_result(one), _result(other)),
        "data": _differing(one.record.get("data_sha256", {}), other.record.get("data_sha256", {})),
        "code": _differing(_code(one), _code(other)),
        "environment": _differing(one.record.get("environment", {}), other.record.get("environment", {})),
    }
    if form == "json":
        _print_json({"runs": [one.name, other.name]} | differing)
        return
    rows = [(part, key, *pair) for part, pairs in differing.items() for key, pair in pairs.items()]
    if form == "tab":
        print("\t".join(("part", "key", one.name, other.name)))
        for row in rows:
            print("\t".join(json.dumps(cell) if isinstance(cell, (list, dict)) else str(cell) for cell in row))
        return
    table = _table(["", "key", one.name, other.name, "change"], left=("", "key"))
    last = None
    for part, key, before, after in rows:
        if last not in (None, part):
            table.add_section()
        change = _change(before, after) if part == "result" else ""
        table.add_row(part if part != last else "", key, _shown(before), _shown(after), change)
        last = part
    _console().print(table)
    same = [part for part, pairs in differing.items() if not pairs]
    if same:
        print(f"the same in both: {', '.join(same)}")


def _config(each: Listed) -> dict[str, Any]:
    return flattened({key: value for key, value in each.config.items() if key not in _NOT_COMPARED})


def _code(each: Listed) -> dict[str, Any]:
    """The part of its key that names the code; none of a run from before there was one."""
    key = each.record.get("key")
    return {"key": key["code"]} if isinstance(key, dict) and "code" in key else {}


def _result(each: Listed) -> dict[str, Any]:
    """The numbers that one would compare."""
    record, found = each.record, dict[str, Any]()
    found |= {f"perplexity {name}": value for name, value in each.perplexity.items()}
    for evaluation in record.get("evaluations", []):
        for kind in ("zero_shot", "generation"):
            tasks = (evaluation.get(kind) or {}).get("tasks", {})
            found |= {f"{kind.replace('_', '-')} {name}": task["acc"] for name, task in tasks.items() if "acc" in task}
    sparsity = record.get("sparsity", {})
    found |= {key: sparsity[key] for key in ("counted", "zeros", "numel") if key in sparsity}
    found |= {key: value for key, value in record.get("facts", {}).items() if key.endswith("_tokens")}
    found |= {f"seconds {phase}": seconds for phase, seconds in record.get("seconds", {}).items()}
    found |= {key: record[key] for key in ("peak_memory_bytes",) if key in record}
    return found | {"bytes on disk": each.size}


def _differing(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    pairs = _both(flattened(before), flattened(after))
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _both(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    return {key: [before.get(key), after.get(key)] for key in (before | after)}


def _shown(value: Any) -> str:
    if value is None:
        return "--"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = value if isinstance(value, str) else json.dumps(value)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _change(before: Any, after: Any) -> str:
    """From the first to the second, in percent."""
    numbers = all(isinstance(value, (int, float)) and math.isfinite(value) for value in (before, after))
    return f"{after / before - 1:+,.1%}" if numbers and before and after != before else ""


# --- away with them


def _delete(wanted: list[Listed], form: str, *, asked: bool) -> None:
    """Say what would go, and why what stays does; go on if nobody is to be asked, or says yes."""
    going = [each for each in wanted if _why_not(each) is None]
    left = {each.name: why for each in wanted if (why := _why_not(each)) is not None}
    if not going:
        first, why = next(iter(left.items()))
        raise UserError(f"delete={first}: {why}")
    if form == "json":
        deleted = [] if asked else _deleted(going, left)
        would = {"would_delete": [each.name for each in going]} if asked else {"deleted": deleted}
        _print_json(would | {"left": left, "bytes": sum(each.size for each in going)})
        return
    if form == "table":
        _print_table(going, list(dict.fromkeys(name for each in going for name in each.perplexity)))
    else:
        for each in going:
            print(f"{each.name}\t{each.state}\t{each.size}")
    for name, why in left.items():
        print(f"left: {name}: {why}")
    what = (
        f"{'this 1 run' if len(going) == 1 else f'these {len(going)} runs'}, {_size(sum(each.size for each in going))}"
    )
    if asked and not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(f"nothing was deleted; yes=true deletes {what}")
        return
    if asked and input(f"delete {what}? [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing was deleted")
        return
    before = len(left)
    deleted = _deleted(going, left)
    for name, why in list(left.items())[before:]:
        print(f"left: {name}: {why}")
    print(f"deleted {len(deleted)} of {len(going)}")


def _why_not(each: Listed) -> str | None:
    if is_kept(each.folder):
        return f"it is kept; unkeep=[{each.name}] lets it go"
    return "a process is at work on it" if each.state == "running" else None


def _deleted(going: list[Listed], left: dict[str, str]) -> list[str]:
    """Delete, and name what is gone. `left` gets what was kept or begun in the meantime."""
    gone = []
    for each in progress(going, "delete", unit="run"):
        try:
            with explained(each.folder, "deleted"), FileLock(each.folder / ".lock", timeout=0):
                if is_kept(each.folder):
                    left[each.name] = "it is kept now"
                    continue
                for name in ("result.json", "pruned.json"):  # first: what is half gone is no finished run
                    (each.folder / name).unlink(missing_ok=True)
                remove(each.folder)
                gone.append(each.name)
        except Timeout:
            left[each.name] = "a process is at work on it now"
    return gone
