"""Kill runs at random moments, let the same command go on, compare weights and perplexity bit for bit.

python scripts/kill_and_resume.py [--kills 200] [--seed 0] [--methods elsa,elsa_plus,elsa_l,finetuned,wanda]

Half of the kills come when a run is about to write, move or remove a file, half at any time; every training step
writes its state. One in five is SIGTERM, the others SIGKILL. Exit code 1 if a result differs, or a file stays that is
not whole.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from faults import RUNS, Result, at_disk, leftovers, result
from forked import said, start


def attempt(
    method: str, folder: Path, first: Callable[[], object] = lambda: None, after: float | None = None, by: int = 0
) -> int:
    """Run the method once in `folder`; its exit code, negative for a signal.

    `first`: called in its process. `after`: seconds until it gets the signal `by`.
    """
    environment: dict[str, str | None] = {"ELSA_CACHE": str(folder / "cache")}
    process = start(RUNS[method], folder, environment, first)
    began, sent = time.monotonic(), False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if after is not None and not sent and time.monotonic() - began > after:
            os.kill(process, by)
            sent = True
        time.sleep(0.005)


def undisturbed(method: str, folder: Path) -> tuple[Result, int, float]:
    """Its result, how often it touches the disk, and its seconds."""
    folder.mkdir()
    counted = folder / "touched"

    def count() -> None:
        at_disk([folder / "outputs", folder / "cache"], lambda number, name: counted.write_text(str(number)))

    began = time.monotonic()
    code = attempt(method, folder, count)
    if code:
        raise SystemExit(f"{method}: exit code {code} without any kill: {said(folder)[-1:]}")
    return result(folder / "outputs"), int(counted.read_text()), time.monotonic() - began


def place(name: str) -> str:
    """What a file belongs to, in words."""
    parts = Path(name).parts
    known = ("checkpoints", "model", "pruned.json", "result.json", "config.json", "windows", "hashes")
    return next((word for word in known if any(word.split(".")[0] in part for part in parts[-3:])), "other files")


def killed_once(method: str, folder: Path, touches: int, seconds: float) -> tuple[int, str]:
    """One attempt with a kill planned; its exit code, and where the kill came."""
    by = signal.SIGTERM if random.random() < 0.2 else signal.SIGKILL
    if random.random() < 0.5:
        return attempt(method, folder, after=random.uniform(0, seconds), by=by), "any time"
    at, note = random.randint(1, touches), folder / "killed-at"
    note.unlink(missing_ok=True)

    def strike(number: int, name: str) -> None:
        if number == at:
            note.write_text(name)
            os.kill(os.getpid(), by)

    code = attempt(method, folder, lambda: at_disk([folder / "outputs", folder / "cache"], strike))
    return code, place(note.read_text()) if note.is_file() else "too late"


def campaign(method: str, kills: int, base: Path) -> tuple[Counter[str], list[str]]:
    """{where: kills} and what was wrong."""
    expected, touches, seconds = undisturbed(method, base / f"{method}-undisturbed")
    where, wrong = Counter[str](), list[str]()
    folder = base / method
    while where.total() < kills:
        folder.mkdir(exist_ok=True)
        code, moment = killed_once(method, folder, touches, seconds)
        if code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
            where[moment] += 1
            if where.total() < kills:
                continue
            code = attempt(method, folder)  # the last one is let through
        if code:
            wrong.append(f"{method}: exit code {code} after a kill at {moment}: {said(folder)[-1:]}")
        elif result(folder / "outputs") != expected:
            wrong.append(f"{method}: {result(folder / 'outputs')} instead of {expected} after a kill at {moment}")
        elif left := leftovers(folder / "outputs/runs"):
            wrong.append(f"{method}: left {left}")
        shutil.rmtree(folder)
    return where, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all, spread over the methods")
    parser.add_argument("--methods", default=",".join(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    methods, every, faults = options.methods.split(","), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory(prefix="elsa-kills-") as name:
        for number, method in enumerate(methods):
            kills = options.kills * (number + 1) // len(methods) - options.kills * number // len(methods)
            where, wrong = campaign(method, kills, Path(name))
            every, faults = every + where, faults + wrong
            print(f"{method}: {where.total()} kills ({dict(where.most_common())}), {len(wrong)} wrong", flush=True)
            for line in wrong:
                print(f"    {line}", flush=True)
    print(f"{every.total()} kills ({dict(every.most_common())}), {len(faults)} wrong")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
