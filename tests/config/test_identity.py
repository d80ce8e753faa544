import pytest

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.identity import pruned_key, run_name
from elsa.config.prune import PruneConfig


def name(*overrides):
    run = build(PruneConfig, compose(*overrides))
    return run_name(run, pruned_key(run))


def test_the_same_question_has_the_same_name():
    assert name("method=wanda") == name("method=wanda")
    assert name("method=wanda").startswith("tiny-wanda-0.5-")
    assert name("method=sparsegpt", "sparsity=2of4").startswith("tiny-sparsegpt-2of4-")
    assert name("method=finetuned", "method.start=wanda").startswith("tiny-wanda+finetuned-0.5-")


@pytest.mark.parametrize(
    "change",
    ["seed=1", "sparsity.ratio=0.6", "training.steps=64", "data.sequence_length=128", "penalty.contraction=3",
     "model.dtype=bfloat16", "method.projection=euclidean", "model.include=[*.mlp.*]", "model.exclude=[*.mlp.*]"],
)  # fmt: skip
def test_whatever_can_change_the_result_changes_the_name(change):
    assert name(change) != name()


@pytest.mark.parametrize(
    "change",
    [
        "paths.outputs=x",
        "tracker=wandb",
        "device=cpu",
        "eval.windows=3",
        "probe_every=7",
        "activations=disk",
        "model.exclude=[]",
    ],
)
def test_whatever_cannot_does_not(change):
    assert name(change) == name()


@pytest.mark.parametrize("key", ["training.distillation", "method.retention", "method.start.damping"])
def test_a_number_is_the_same_however_it_is_written(key):
    plus = ("method=elsa_plus", "method.hard=false")
    assert name(*plus, f"{key}=1") == name(*plus, f"{key}=1.0")


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (["method=wanda"], "penalty.contraction=3"),
        (["method=wanda"], "training.steps=64"),
        (["method=magnitude"], "seed=1"),
        (["method=dense"], "sparsity.ratio=0.9"),
        (["method=dense"], "model.exclude=[*.mlp.*]"),
        (["method=finetuned", "method.start=dense"], "sparsity.ratio=0.9"),
    ],
)
def test_what_a_method_does_not_read_does_not_count(method, change):
    assert name(*method, change) == name(*method)
