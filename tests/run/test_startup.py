"""What the light paths import, each in a process of its own, and what a sweep keeps between its runs."""

import os
import subprocess
import sys

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from elsa.config.choices import CONF
from hydra_plugins.elsa_launchers import _ReadOnce


def imported(*command, cwd=None):
    """The top-level packages that a Python process imports."""
    ended = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, cwd=cwd)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return {line.split("|")[-1].strip().split(".")[0] for line in lines}


HEAVY = {"torch", "transformers", "lm_eval", "wandb", "matplotlib"}


@pytest.mark.parametrize("arguments", [["method=wnda"], ["training.stps=3"], ["--cfg", "job"], ["status"]])
def test_a_typo_a_config_and_a_status_are_answered_without_torch(tmp_path, arguments):
    found = imported("-m", "elsa.run.cli", *arguments, cwd=tmp_path)
    assert "hydra" in found
    assert not found & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["prun", "method=wanda"]])
def test_help_and_a_wrong_command_are_answered_without_hydra(tmp_path, arguments):
    found = imported("-m", "elsa.run.cli", *arguments, cwd=tmp_path)
    assert "elsa" in found
    assert not found & (HEAVY | {"hydra", "omegaconf", "pydantic"})


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_nobody_has_to_read_to_the_end(tmp_path, arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "elsa.run.cli", *arguments]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_the_package_imports_nothing(tmp_path):
    assert not imported("-c", "import elsa", cwd=tmp_path) & (HEAVY | {"hydra", "omegaconf", "pydantic"})


def test_runs_that_are_read_once_compose_as_if_each_were_read_anew():
    cells = [
        [f"method={method}", f"sparsity={sparsity}"]
        for method in ("elsa_plus", "finetuned/wanda", "wanda", "elsa_plus") for sparsity in ("2of4", "unstructured/70")
    ]  # fmt: skip
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("prune", ["sweep=paper_ppl_tiny"], RunMode.MULTIRUN)

        def composed():
            every = [loader.load_sweep_config(master, ["sweep=paper_ppl_tiny", *cell]) for cell in cells]
            return [OmegaConf.to_container(each) for each in every]

        anew = composed()
        loader.repository = _ReadOnce(loader.repository)
        assert composed() == anew
        assert composed() == anew
