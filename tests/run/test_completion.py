"""What the shells are told, and that they are told it quickly: without Hydra, pydantic or torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elsa.config.choices import CONF, all_choices, groups
from elsa.config.compose import compose
from elsa.errors import UserError
from elsa.files import flattened
from elsa.run.cli import _FILTERS, COMMANDS, main
from elsa.run.completion import SHELLS, _tree, candidates, script
from tests.run.test_startup import HEAVY, imported


def after(line):
    """What may stand in the place of the line's last word."""
    return candidates(line, COMMANDS, ("--cfg", "--version", "-m"))


def test_a_line_begins_with_a_command_or_a_setting():
    assert {*COMMANDS, "method=", "method.", "seed=", "experiment="} < set(after("elsa "))
    assert after("elsa re") == ["reproduce", "report", "reuse="]
    assert after("elsa method=wanda re") == ["reuse="]
    assert after("elsa --v") == ["--version"]
    assert after("elsa completion ") == list(SHELLS)


def test_choices_come_from_the_config_folders():
    assert after("elsa method=finetuned/a") == ["method=finetuned/alps", "method=finetuned/alps_swaps"]
    assert after("elsa -m method=wanda,w") == []
    assert after("elsa -m method=wanda,el") == ["method=wanda,elsa", "method=wanda,elsa_plus"]
    assert after("elsa export export=") == ["export=dense", "export=sparse"]
    assert after("elsa hydra/launcher=s") == ["hydra/launcher=slots", "hydra/launcher=slurm"]
    assert after("elsa method=swaps method.start=spa") == ["method.start=sparsegpt", "method.start=sparsellm"]


def test_keys_are_those_of_what_was_chosen():
    assert after("elsa method=wanda method.") == ["method.calibration_windows=", "method.few_tokens="]
    assert "method.start.rho=" in after("elsa method=elsa_plus method.start.")
    assert after("elsa +training.ste") == ["+training.steps="]
    assert after("elsa method=elsa_plus method.hard=") == ["method.hard=false", "method.hard=true"]
    assert after("elsa hydra/launcher=slurm hydra.launcher.m") == [
        "hydra.launcher.memory_gib=",
        "hydra.launcher.minutes=",
    ]
    assert after("elsa runs older") == ["older_than="]
    assert after("elsa nope.x") == after("elsa seed.x") == after("elsa seed=") == after("elsa nope=") == []


@pytest.mark.parametrize("overrides", [[], ["method=elsa_plus"], ["method=finetuned/alps_swaps", "eval=full"],
                                       ["training=short", "experiment=quickstart", "tracker=wandb"]])  # fmt: skip
def test_the_light_reader_finds_the_keys_that_hydra_composes(overrides):
    tree = _tree("prune", dict(each.split("=") for each in overrides))
    light = {key: value for key, value in tree.items() if not key.startswith("hydra")}
    pointers = {key for key, value in flattened(light).items() if str(value).startswith("${data")}
    composed = {key for key in flattened(compose(*overrides)) if not key.endswith("_target_")}
    composed = {key for key in composed if not any(key.startswith(f"{each}.") for each in pointers)}
    assert flattened(light).keys() - pointers == composed - {"experiment", "sweep"}


def test_every_command_completes_its_keys():
    for command in COMMANDS:
        if (CONF / f"{command}.yaml").is_file():
            assert any(each.endswith("=") for each in after(f"elsa {command} ")), command
    assert set(_FILTERS) < {each.rstrip("=") for each in after("elsa runs ")}


def test_runs_and_sweeps_are_completed_from_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a-1", "runs/a-2", "sweeps/s-1"):
        Path("outputs", name).mkdir(parents=True)
    assert after("elsa runs delete=[a-1,a") == ["delete=[a-1,a-2"]
    assert after("elsa runs state=r") == ["state=running"]
    assert after("elsa status sweep=") == ["sweep=s-1"]
    run, other = (f"checkpoint=outputs/runs/a-{number}" for number in (1, 2))
    assert after("elsa evaluate checkpoint=outputs/r") == [run, other]
    assert after("elsa evaluate paths.outputs=there checkpoint=") == []


def test_methods_of_other_packages_are_completed_and_a_broken_file_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("_target_: pack.mine.Mine\npower: 1.0\n")
    (tmp_path / "method/broken.yaml").write_text("{")
    for module in ("elsa.config.choices", "elsa.run.completion"):
        monkeypatch.setattr(f"{module}.config_folders", lambda: [tmp_path])
    assert after("elsa method=min") == ["method=mine"]
    assert after("elsa method=mine method.") == ["method.power="]
    assert after("elsa method=broken method.") == []


def test_choices_in_folders_are_found():
    assert {"unstructured", "unstructured/50"} <= set(all_choices("sparsity"))
    assert "completions" not in groups()


@pytest.mark.parametrize("arguments", [["completion", "candidates", "elsa method=elsa method."], ["--version"]])
def test_a_shell_is_answered_with_few_imports(tmp_path, arguments):
    found = imported("-m", "elsa", *arguments, cwd=tmp_path)
    assert "elsa" in found
    assert not found & (HEAVY | {"hydra", "omegaconf", "pydantic", "rich", "numpy"})


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script_that_it_can_read(shell):
    assert "completion candidates" in script(shell)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script(shell), text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_gets_what_stands_behind_its_last_word_break():
    program = f"""
        elsa() {{ {sys.executable} -m elsa "$@"; }}
        eval "$(elsa completion bash)"
        for COMP_LINE in "elsa method=wa" "elsa hydra/la" "elsa runs sort=" "elsa paths.outputs=/nope"; do
            COMP_POINT=${{#COMP_LINE}}
            _elsa elsa
            printf '%s|' "${{COMPREPLY[@]}}"
            echo
        done
    """
    said = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout
    sorts = "age |method |model |name |perplexity |seed |size |sparsity |state |"
    assert said.splitlines() == ["wanda |", "hydra/launcher=|", sorts, "|"]


@pytest.mark.parametrize("arguments", [["completion"], ["completion", "csh"], ["completion", "bash", "x"]])
def test_another_shell_is_refused(monkeypatch, capsys, arguments):
    with pytest.raises(UserError):
        script(" ".join(arguments[1:]))
    monkeypatch.setattr(sys, "argv", ["elsa", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    said = f"elsa: {' '.join(arguments)}: no such shell; "
    assert (leaving.value.code, capsys.readouterr().err.startswith(said)) == (2, True)
