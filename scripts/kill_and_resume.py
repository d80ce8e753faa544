"""Kill a training run at random moments with SIGKILL, let the same command go on, compare the weights bit for bit.

python scripts/kill_and_resume.py [--kills 50] [--precision elsa] [--seed 0]

Every step writes a checkpoint, so that many kills hit the middle of a write. Exit code 1 if any result differs.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from elsa.files import file_hash


def start(outputs: Path, precision: str) -> subprocess.Popen[bytes]:
    arguments = [
        "method=elsa", "method.interval=4", "sparsity.ratio=0.9", "training=short", "training.steps=24",
        "training.batch_size=1", "data.sequence_length=64", "eval.windows=1", "checkpoint.every_minutes=0",
        f"precision={precision}", f"paths.outputs={outputs}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "elsa.run.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_folder(outputs: Path) -> Path | None:
    return next(outputs.glob("runs/*-elsa-*"), None)


def wait_for_first_checkpoint(process: subprocess.Popen[bytes], outputs: Path) -> None:
    while process.poll() is None:
        folder = run_folder(outputs)
        if folder is not None and (folder / "checkpoints").is_dir():
            return
        time.sleep(0.01)


def found_folder(outputs: Path) -> Path:
    folder = run_folder(outputs)
    assert folder is not None, f"no run was started in {outputs}"
    return folder


def weights(outputs: Path) -> str:
    return file_hash(found_folder(outputs) / "model/model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--precision", default="elsa", help="a choice of conf/precision")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory(prefix="elsa-kills-") as name:
        undisturbed = Path(name) / "undisturbed"
        process = start(undisturbed, options.precision)
        wait_for_first_checkpoint(process, undisturbed)
        began = time.monotonic()
        process.wait()
        duration, expected = time.monotonic() - began, weights(undisturbed)
        print(f"undisturbed: {expected[:16]}, {duration:.1f} s from the first checkpoint to the end", flush=True)
        equal = killed = halves = 0
        while killed < options.kills:
            outputs = Path(name) / "killed"
            process = start(outputs, options.precision)
            wait_for_first_checkpoint(process, outputs)
            time.sleep(random.uniform(0, duration))
            process.kill()
            process.wait()
            if list(found_folder(outputs).glob("result.json")):
                shutil.rmtree(outputs)
                continue  # it had ended before the signal came
            killed += 1
            states = sorted((found_folder(outputs) / "checkpoints").glob("step-*.pt"))
            half = bool(list((found_folder(outputs) / "checkpoints").glob(".*")))
            start(outputs, options.precision).wait()
            same = weights(outputs) == expected
            equal, halves = equal + same, halves + half
            place = f"after {states[-1].stem}" if states else "behind the last step"
            note = ", in the middle of a write" if half else ""
            print(f"kill {killed}: {place}{note}: {'equal' if same else 'DIFFERENT'}", flush=True)
            shutil.rmtree(outputs)
    print(f"{killed} kills, {halves} in the middle of a write, {equal} results bit-equal ({options.precision})")
    sys.exit(equal != killed)


if __name__ == "__main__":
    main()
