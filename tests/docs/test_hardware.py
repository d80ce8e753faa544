"""The table of docs/reference/hardware.md is what `elsa plan` counts."""

import importlib.util
from pathlib import Path

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.model.fitting import empty_skeleton
from elsa.model.weights import prunable_weights

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/hardware.md").read_text()


def script():
    spec = importlib.util.spec_from_file_location("hardware_table", ROOT / "scripts/hardware_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_smallest_model_is_as_counted_now():
    made = script()
    lines = made.lines_of("opt_125m")
    assert "**opt_125m**, 0.13 B parameters, 0.08 B prunable" in lines[0]
    assert [line for line in lines if line not in PAGE.splitlines()] == []
    assert [model for model in made.MODELS if f"**{model}**" not in PAGE] == []


def test_sizes_in_the_config_are_those_of_the_model():
    model = build(PruneConfig, compose("model=opt_1_3b")).model
    skeleton = empty_skeleton(model.name, model.sizes(Path("nowhere")))
    assert sum(parameter.numel() for parameter in skeleton.parameters()) == 1_315_758_080
    assert len(prunable_weights(skeleton)) == 24 * 6
