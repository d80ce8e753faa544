"""The YAML files and the classes they name agree, in both directions."""

import ast
import dataclasses
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from elsa.config.build import build
from elsa.config.choices import CONF, choices, groups
from elsa.config.commands import DashboardConfig, ReportConfig, RunsConfig
from elsa.config.compose import compose
from elsa.config.deploy import ExportConfig
from elsa.config.prune import EvaluateConfig, PruneConfig

ROOT = Path(__file__).parents[2]
WITH_TARGET = sorted(
    path.relative_to(CONF).as_posix()
    for group in ("model", "data", "sparsity", "method", "training", "penalty", "precision", "eval", "tracker")
    for path in (CONF / group).glob("*.yaml")
)


@pytest.mark.parametrize("path", WITH_TARGET)
def test_every_yaml_gives_every_field_of_its_class_and_no_more(path):
    group, name = path.removesuffix(".yaml").split("/")
    node = compose(f"{group}={name}")[group]
    module, _, attribute = node["_target_"].rpartition(".")
    fields = {field.name for field in dataclasses.fields(getattr(import_module(module), attribute))}
    assert node.keys() - {"_target_"} == fields


@pytest.mark.parametrize("path", WITH_TARGET)
def test_every_choice_builds(path, tmp_path):
    group, name = path.removesuffix(".yaml").split("/")
    missing = {
        "model/pretrained": ["model.path=a/b"], "data/tokens": ["data.path=x"], "data/hub": ["data.name=a/b"],
        "data/hub_chat": ["data.name=a/b"],
        "sparsity/n_of_m": ["sparsity.pattern=1:4"],
    }  # fmt: skip
    needs = missing.get(f"{group}/{name}", [])
    build(PruneConfig, compose(f"{group}={name}", *needs))


def test_methods_are_one_file_one_class_one_yaml():
    shared = {"__init__", "base", "gradual", "layerwise", "projecting", "refining", "registry"}
    files = {path.stem for path in (ROOT / "elsa/method").glob("*.py")} - shared
    assert files == set(choices("method"))
    for name in files:
        assert compose(f"method={name}")["method"]["_target_"].startswith(f"elsa.method.{name}.")


def test_trackers_are_one_file_one_yaml():
    assert {path.stem for path in (ROOT / "elsa/track").glob("*.py")} - {
        "__init__",
        "dashboard",
        "progress",
        "memory",
    } == set(choices("tracker"))


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes_and_builds(experiment):
    build(PruneConfig, compose(f"experiment={experiment}"))


@pytest.mark.parametrize(("method", "part"), [("finetuned/alps", "start"), ("elsa_plus", "start")])
def test_keys_of_the_method_that_comes_first_can_be_set(method, part):
    config = compose(f"method={method}", f"method.{part}.calibration_windows=32")
    assert config["method"][part] == compose("method=alps")["method"] | {"calibration_windows": 32}


@pytest.mark.parametrize("sweep", choices("sweep"))
def test_every_cell_of_a_sweep_composes_and_builds(sweep):
    grid = OmegaConf.load(CONF / f"sweep/{sweep}.yaml").hydra.sweeper.params
    values = {key: [value.strip() for value in str(values).split(",")] for key, values in grid.items()}
    for key, choices_of_key in values.items():
        for value in choices_of_key:
            build(PruneConfig, compose(f"sweep={sweep}", f"{key}={value}"))


def test_an_experiment_overrides_the_defaults():
    assert compose("experiment=quickstart")["sparsity"]["ratio"] == 0.9


def test_the_other_commands_build():
    build(EvaluateConfig, compose("checkpoint=x", command="evaluate"))
    build(ReportConfig, compose(command="report"))
    build(DashboardConfig, compose("entity=us", command="dashboard"))
    build(RunsConfig, compose(command="runs"))
    for form in choices("export"):
        build(ExportConfig, compose("checkpoint=x", f"export={form}", command="export"))


def test_hub_models_and_data_are_pinned_or_known_not_to_be():
    unpinned = {"gemma_2_27b", "pretrained", "qwen3_30b_a3b"}  # see the comments in these files
    for name in choices("model"):
        revision = compose(f"model={name}", "++model.path=a/b")["model"].get("revision", "packaged")
        assert (revision in (None, "main")) == (name in unpinned), name
    for name in ("c4", "wikitext2"):
        assert len(compose(f"data={name}")["data"]["revision"]) == 40


def test_groups_are_the_nouns_of_a_run():
    expected = ["data", "eval", "experiment", "export", "method", "model", "paths", "penalty", "precision"]
    expected += ["sparsity", "sweep", "tracker", "training"]
    assert groups() == expected


def test_libraries_stay_in_their_place():
    """wandb and lm_eval in one file each, transformers only where models and tokenizers are."""
    users = {"wandb": set(), "lm_eval": set(), "transformers": set()}
    for path in (ROOT / "elsa").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for module in modules:
                if module.split(".")[0] in users:
                    users[module.split(".")[0]].add(path.relative_to(ROOT / "elsa").parts[0])
    assert users["wandb"] == {"track"}
    assert users["lm_eval"] == {"evaluation"}
    assert users["transformers"] == {
        "api.py",
        "model",
        "data",
        "checkpoint",
        "decoding",
        "evaluation",
        "export",
        "plan",
        "run",
    }
