"""C++ kernels, built when they are first wanted, by torch's own means, and kept where torch keeps extensions."""

import importlib.util
import logging
import os
import platform
import shutil
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock

from elsa.errors import in_one_line
from elsa.files import content_hash
from elsa.track.progress import working

_SOURCE = Path(__file__).parent / "products.cpp"
_log = logging.getLogger(__name__)


@cache
def cpu_kernels() -> str | None:
    """Make the operators of `torch.ops.elsa_cpu` there; why that cannot be, None if it is."""
    if importlib.util.find_spec("ninja") is None and shutil.which("ninja") is None:
        return "ninja is not installed"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "there is no C++ compiler"
    from torch.utils import cpp_extension  # late: it brings setuptools

    native = ["-march=native"] if platform.machine() == "x86_64" else []
    # one for each processor, version of torch and source: homes are shared, and torch's headers are no dependency
    name = f"elsa_cpu_{content_hash([_processor(), torch.__version__, _SOURCE.read_text()])}"
    _log.debug("building %s, once", name)
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with working("build the C++ kernel"), FileLock(folder / ".lock"):
            # torch's own lock outlives a build that was killed, and whoever comes next would wait for ever
            (folder / "lock").unlink(missing_ok=True)
            cpp_extension.load(
                name=name, sources=[str(_SOURCE)], extra_cflags=["-O3", "-fopenmp", *native],
                extra_ldflags=["-fopenmp"], build_directory=str(folder), is_python_module=False,
            )  # fmt: skip
    except (RuntimeError, OSError, ImportError) as error:
        reason = in_one_line(error, 200)
        _log.warning("no C++ kernel for sparse matrices, so slower ones are taken: %s", reason)
        return reason
    torch.library.register_fake("elsa_cpu::product", _product)
    torch.library.register_fake("elsa_cpu::dense", _dense)
    return None


def _dense(places: torch.Tensor, rows: torch.Tensor, values: torch.Tensor, inputs: int) -> torch.Tensor:
    return values.new_empty(rows.shape[0] - 1, inputs)


def _product(places: torch.Tensor, rows: torch.Tensor, values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], rows.shape[0] - 1)


def _processor() -> list[str]:
    """What decides what a native build may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return [platform.machine(), platform.processor(), *sorted({line for line in lines if line.startswith("flags")})]
