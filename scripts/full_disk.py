"""The disk fills at each write of a run in turn: one line, the last good state kept, and the same command finishes.

python scripts/full_disk.py [--methods elsa,wanda] [--every 1]

In turn, from the n-th time on that a run is about to write, move or remove a file in its outputs or its cache, it gets
"No space left on device". It must end with one line and exit code 2; the same command with space must then give the
same bits as a run that was not disturbed, and leave no file that is not whole. Exit code 1 if not.
"""

import argparse
import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

from faults import RUNS, at_disk, leftovers, result
from forked import said
from kill_and_resume import attempt, undisturbed


def full_from(number: int, folder: Path) -> None:
    """In this process the disk is full from the `number`-th touch on."""

    def refuse(touch: int, name: str) -> None:
        if touch >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    at_disk([folder / "outputs", folder / "cache"], refuse)


def shortcomings(method: str, number: int, folder: Path, expected: object) -> list[str]:
    """What is wrong with a run whose disk is full from its `number`-th touch on."""
    folder.mkdir()
    code, wrong = attempt(method, folder, lambda: full_from(number, folder)), list[str]()
    lines = said(folder)
    if code == 0:
        return []  # nothing that matters was left to write
    goes_on = all("could not be saved" in line for line in lines[:-1])  # training does, as long as it can
    if code != 2 or not lines or not goes_on or "No space left" not in lines[-1]:
        wrong.append(f"exit code {code}, {len(lines)} lines, last {lines[-1:]}")
    if code := attempt(method, folder):
        return [*wrong, f"then exit code {code}: {said(folder)[-1:]}"]
    if result(folder / "outputs") != expected:
        wrong.append("then another result")
    if left := leftovers(folder / "outputs/runs"):
        wrong.append(f"left {left}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="elsa,wanda")
    parser.add_argument("--every", type=int, default=1, help="try every n-th write only")
    options = parser.parse_args()
    tried = short = 0
    with tempfile.TemporaryDirectory(prefix="elsa-full-disk-") as name:
        for method in options.methods.split(","):
            assert method in RUNS, f"{method}: known are {', '.join(RUNS)}"
            expected, touches, _ = undisturbed(method, Path(name) / f"{method}-undisturbed")
            for number in range(1, touches + 1, options.every):
                folder = Path(name) / f"{method}-{number}"
                wrong = shortcomings(method, number, folder, expected)
                shutil.rmtree(folder)
                tried, short = tried + 1, short + bool(wrong)
                if wrong:
                    print(f"{method}, full from touch {number} of {touches}: {'; '.join(wrong)}", flush=True)
    print(f"the disk was full at {tried} moments, {short} not answered as they should be")
    sys.exit(short > 0)


if __name__ == "__main__":
    main()
