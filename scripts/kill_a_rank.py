"""Kill ranks of a run on several devices at random moments, let the same command go on, compare weights bit for bit.

python scripts/kill_a_rank.py [--kills 50] [--devices 2] [--seed 0]

Three in five kills hit one rank with SIGKILL, one in five the process that launched them with SIGKILL, one in five that
one with SIGTERM. Every training step writes its state; every few kills a run is let through. Exit code 1 if weights
differ from those of one device, a process outlives its run, or a file stays that is not whole.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from faults import leftovers, result

RUN = [
    "method=elsa", "sparsity.ratio=0.9", "method.interval=4", "training=short", "training.steps=40",
    "training.batch_size=4", "training.accumulation=4", "training.fixed_order=true", "data.sequence_length=64",
    "eval.windows=16", "checkpoint.every_minutes=0", "probe_every=8",
]  # fmt: skip
_PATIENCE = 60  # seconds that ranks get to end after a kill
_LET_THROUGH = 5  # a run at every so many kills


def start(folder: Path, devices: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "elsa", *RUN, f"paths.outputs={folder / 'outputs'}", f"devices={devices}"]
    with (folder / "_out").open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"OMP_NUM_THREADS": "1"})


def ranks_of(launcher: int) -> list[int]:
    """The processes that it has started, as Linux lists them."""
    try:
        listed = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(each) for each in listed.split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_once(folder: Path, devices: int, seconds: float) -> tuple[str, list[str]]:
    """Start the run and kill some of it; what was killed ("" if the run was over before), and what was wrong."""
    launcher, moment = start(folder, devices), random.uniform(0, seconds)
    began, ranks = time.monotonic(), list[int]()
    while time.monotonic() - began < moment and launcher.poll() is None:
        ranks = ranks_of(launcher.pid) or ranks
        time.sleep(0.01)
    if launcher.poll() is not None:
        return "", [] if launcher.returncode == 0 else [
            f"exit code {launcher.returncode} without a kill: {said(folder)}"
        ]
    what = random.choice(["a rank", "a rank", "a rank", "the launcher", "SIGTERM"])
    if what == "a rank" and ranks:
        target = random.choice(ranks)
        with_signal = signal.SIGKILL
    else:
        what = what if what != "a rank" else "the launcher"
        target, with_signal = launcher.pid, signal.SIGTERM if what == "SIGTERM" else signal.SIGKILL
    with suppress(ProcessLookupError):  # it has ended just now
        os.kill(target, with_signal)
    try:
        code = launcher.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        launcher.kill()
        return what, [f"the launcher did not end after a kill of {what}"]
    deadline = time.monotonic() + 5
    while any(map(alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    wrong = [f"process {each} outlived a kill of {what}" for each in ranks if alive(each)]
    expected = {"a rank": (137,), "the launcher": (-9,), "SIGTERM": (143, -15)}[what]
    if code not in (*expected, 0):
        wrong.append(f"exit code {code} after a kill of {what}: {said(folder)}")
    return what, wrong


def said(folder: Path) -> str:
    lines = (folder / "_out").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    killed, wrong, finished = Counter[str](), list[str](), 0
    with tempfile.TemporaryDirectory(prefix="elsa-ranks-") as name:
        base = Path(name)
        os.environ["ELSA_CACHE"] = str(base / "cache")
        (base / "one").mkdir()
        assert start(base / "one", 1).wait() == 0, said(base / "one")
        expected = result(base / "one/outputs")
        (base / "all").mkdir()
        began = time.monotonic()
        assert start(base / "all", options.devices).wait() == 0, said(base / "all")
        seconds = time.monotonic() - began
        if result(base / "all/outputs") != expected:
            wrong.append(f"{options.devices} devices without a kill: {result(base / 'all/outputs')} and not {expected}")
        folder = base / "killed"
        while killed.total() < options.kills:
            folder.mkdir(exist_ok=True)
            what, found = kill_once(folder, options.devices, seconds)
            killed[what] += bool(what)
            wrong += found
            if what and killed.total() % _LET_THROUGH and killed.total() < options.kills:
                continue
            if what and (code := start(folder, options.devices).wait()):
                wrong.append(f"exit code {code} of a run let through: {said(folder)}")
            elif result(folder / "outputs") != expected:
                wrong.append(f"{result(folder / 'outputs')} instead of {expected}")
            elif left := leftovers(folder / "outputs"):
                wrong.append(f"left {left}")
            finished += 1
            shutil.rmtree(folder)
            print(f"{killed.total()} kills ({dict(killed)}), {finished} runs finished, {len(wrong)} wrong", flush=True)
    for line in wrong:
        print(f"    {line}")
    print(f"{killed.total()} kills ({dict(killed)}), {finished} runs finished, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
