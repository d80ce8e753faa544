"""What a cluster's own process does for a run: its command, with the output where the sweep looks for it."""

import os
import subprocess
from pathlib import Path

_PATIENCE = 60  # seconds to save its state in


def execute(command: list[str], environment: dict[str, str], log: Path, where: Path) -> int:
    """Run the command in the folder `where`; its exit code. If this is interrupted the command is asked to stop."""
    with log.open("a") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, cwd=where, stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
