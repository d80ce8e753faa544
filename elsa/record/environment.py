"""What a run was made with: all that can move the last bits of a number."""

import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("elsa", "torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy", "hydra-core")


def environment(device: str) -> dict[str, Any]:
    """Versions, the processors with their instructions, the number of threads, and the commit of the source tree."""
    return {
        "python": platform.python_version(), "platform": platform.platform(),
        "libraries": {name: _version(name) for name in _LIBRARIES}, "git_commit": commit_of(Path(__file__)),
        "threads": torch.get_num_threads(), "cpu": _cpu(),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(), "device": device, "gpu": _gpu(device),
    }  # fmt: skip


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is another environment now, a line each; what `before` does not say is named too."""
    flat = [(f"libraries.{name}", value, now["libraries"].get(name)) for name, value in before["libraries"].items()]
    flat += [(key, before.get(key), now[key]) for key in now if key not in ("libraries", "git_commit", "platform")]
    said = [f"{key} was {was} and is {given}" for key, was, given in flat if was is not None and was != given]
    silent = [key for key in ("threads", "cpu") if before.get(key) is None]
    return said + [f"{key} was not recorded and is {now[key]}" for key in silent]


def commit_of(source: Path) -> str | None:
    """The commit of the repository that holds this file; None for an installed package, whatever lies around it."""

    def asked(*words: str) -> str:
        command = ["git", "-C", str(source.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    is_ours = shutil.which("git") is not None and bool(asked("ls-files", source.name))
    return asked("rev-parse", "HEAD") or None if is_ours else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu(device: str) -> dict[str, Any] | None:
    if not device.startswith("cuda"):
        return None
    return {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "count": torch.cuda.device_count()}


@cache
def _cpu() -> str:
    """The processor's name, as Linux or else Python has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
