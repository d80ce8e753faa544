"""What wandb's own reader finds in a run's folder."""

import json
import subprocess
import sys
from pathlib import Path


def inspect(run: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", run.resolve(), *flags, "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def logged(run: Path, kind: str) -> list[dict]:
    """Its records of one kind, in the order in which wandb has them."""
    return [line[kind] for line in map(json.loads, inspect(run).splitlines()) if line["type"] == kind]
