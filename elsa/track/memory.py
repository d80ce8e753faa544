"""The memory that there is, and the peak of what a part of a run takes."""

import os
import sys
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def machine_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reset_peak(device: str) -> None:
    """Start a new measurement."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # proc(5): resets the peak of the resident set to its present size


def peak_bytes(device: str) -> int:
    """Most bytes since `reset_peak`: allocated on a CUDA device, else resident in this process.

    Where the system has no `/proc` the peak of the whole process is all there is.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
