"""Run every training method on 1, 2 and 4 processes with sums in a fixed order: are the weights the same bits?

python scripts/same_bits.py [--devices 1 2 4] [--device cpu] [--model tiny] [--steps 64]

One run each of elsa with penalty=auto and cosine, elsa_plus and finetuned; unstructured, 2:4 and under a global budget.
Exit code 1 if two of the same run differ.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from elsa.files import file_hash

METHODS = {
    "elsa, auto": ["method=elsa", "method.interval=8", "penalty=auto"],
    "elsa, cosine": ["method=elsa", "method.interval=8", "penalty=cosine"],
    "elsa_plus": ["method=elsa_plus", "method.start=wanda"],
    "finetuned": ["method=finetuned/sparsegpt"],
}
PATTERNS = {
    "unstructured": ["sparsity.ratio=0.9"],
    "2:4": ["sparsity=2of4"],
    "global": ["sparsity.ratio=0.9", "sparsity.allocation=global"],
}


def weights(run: list[str], devices: int) -> str:
    """SHA-256 of the weights that a run leaves."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "elsa", *run, f"devices={devices}", f"paths.outputs={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
        (path,) = Path(folder).glob("runs/*/model/model.safetensors")
        return file_hash(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="tiny", help="a choice of conf/model")
    parser.add_argument("--steps", type=int, default=64)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # another number of threads is another order of sums
    parts = max(options.devices)
    common = [
        f"model={options.model}", f"device={options.device}", "training=short", f"training.steps={options.steps}",
        f"training.batch_size={parts}", f"training.accumulation={parts}", "training.fixed_order=true",
        "data.sequence_length=64", "eval.windows=2", "probe_every=0",
    ]  # fmt: skip
    differ = False
    for name, method in METHODS.items():
        for pattern, sparsity in PATTERNS.items():
            found = [weights([*common, *method, *sparsity], devices) for devices in options.devices]
            same = len(set(found)) == 1
            differ |= not same
            shown = found[0][:12] if same else ", ".join(each[:12] for each in found)
            print(f"{name:<13} {pattern:<13} {'the same' if same else 'DIFFERENT'}: {shown}", flush=True)
    sys.exit(differ)


if __name__ == "__main__":
    main()
