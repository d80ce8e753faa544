"""What can be seen to be wrong in the words of a command alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from elsa.run.cli import is_out_of_memory


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([""], "'': no setting; key=value is wanted"),
        (["method=wanda", ""], "'': no setting"),
        (["=5"], "=5: no such command"),
        (["method=wanda", "=5"], "'=5': no setting"),
        (["method=wanda", "wanda"], "'wanda': no setting"),
        (["-"], "-: no such command"),
        (["~"], "~: no such command"),
        (["plan", "evaluate"], "evaluate: a command stands first, and there is one"),
        (["method=wanda", "plan"], "plan: a command stands first"),
        (["prun"], "did you mean 'prune'?"),
        (["--foo", "method=wanda"], "--foo: no such flag"),
        (["method=wanda", "--multirn"], "did you mean '--multirun'?"),
        (["method=wanda", "--cfg"], "--cfg=nothing: this flag takes a value"),
        (["-m", "seed=0,1", "--cfg", "job"], "--cfg -m: one of them"),
        (["--cfg", "foo"], "--cfg=foo: known: job, hydra, all"),
        (["--resolve"], "--resolve: goes with --cfg alone"),
        (["-p", "method"], "-p: goes with --cfg alone"),
        (["-m", "seed=range(0,3,0)"], "seed"),
        (["-m", "seed=range(0,1e400)"], "seed"),
        (["method=[wanda]"], "method=[wanda]: no such choice"),
        (["method=null"], "method=null: no such choice"),
        (["method._target_=null"], "method._target_=null: a class is wanted"),
        (["method._target_=os.system"], "no dataclass of this package"),
        (["seed=-1"], "seed=-1: a whole number from 0 up"),
        (["seed=1e400"], "seed=inf: a finite number is wanted"),
        (["training.learning_rate=nan"], "training.learning_rate=nan: a finite number is wanted"),
        (["method=wanda", "method.calibration_windows=100000000000"], "they take"),
        (["-m", "method=glob(z*)"], "no run in this sweep"),
        (["-m", "seed=0,1", "hydra.launcher.cpu_slots=0"], "hydra.launcher.cpu_slots=0: at least 1"),
        (["-m", "seed=0,1", "hydra.launcher.cpu_threads=-1"], "hydra.launcher.cpu_threads=-1: at least 1"),
        (["-m", "seed=0,1", "hydra.launcher.gpus=[7]"], "hydra.launcher.gpus=[7]: GPUs here: none"),
        (["-m", "sparsity.ratio=1,2"], "none of 2 runs can run"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(elsa, tmp_path, words, line):
    before = sorted(tmp_path.rglob("*"))
    code, _, err = elsa(*words, model=False)
    assert code == 2
    assert line in err
    assert err.count("\n") <= (3 if "-m" in words else 1)
    kept = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path not in before]
    assert [path for path in kept if "cache" not in path.parts] == []


def test_flags_may_stand_anywhere(elsa):
    code, out, _ = elsa("method=wanda", "--cfg", "job", "-p", "method", model=False)
    assert code == 0
    assert "elsa.method.wanda.Wanda" in out
    assert "elsa.data" not in out


def test_the_version_is_told(elsa):
    code, out, _ = elsa("--version", model=False)
    assert (code, out.split()[0]) == (0, "elsa")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:130] DefaultCPUAllocator: can't allocate memory: you tried …"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_out_of_memory_is_known_by_its_many_words(error, expected):
    assert is_out_of_memory(error) == expected


def test_a_process_without_home_needs_its_cache_named_alone(tmp_path):
    without = {name: value for name, value in os.environ.items() if name not in ("HOME", "ELSA_CACHE")}
    script = "import sys; sys.argv = ['elsa', '--cfg', 'job']; from elsa.run.cli import main; main()"
    given = subprocess.run(
        [sys.executable, "-c", script], env=without | {"ELSA_CACHE": str(tmp_path)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert f"cache: {tmp_path}" in given.stdout


def test_paths_know_the_home_folder(monkeypatch):
    from elsa.config.commands import Paths

    monkeypatch.setenv("HOME", "/home/someone")
    assert Paths(outputs="~/out", cache="~/.cache/elsa", mirror=None).cache == "/home/someone/.cache/elsa"
    assert Path(Paths(outputs="~/out", cache="c", mirror=None).outputs) == Path("/home/someone/out")
