import pytest
import torch

from elsa.errors import UserError
from elsa.layerwise.driver import prune_blocks
from elsa.layerwise.outliers import Outliers, block_sparsities
from elsa.method.base import Task
from elsa.method.finetuned import FineTuned
from elsa.method.magnitude import Magnitude
from elsa.method.sparsegpt import SparseGPT
from elsa.method.swaps import Swaps
from elsa.model.weights import choose, decoder_blocks, prunable_weights, weights_by_block
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model
from tests.method.methods import METHODS, PRECISION, TRAINING

OWL = Pattern(pattern="unstructured", ratio=0.7, allocation="owl")


def with_outliers():
    """Block 1 has larger weights here and there."""
    model = random_model("llama")
    with torch.no_grad():
        for weight in weights_by_block(model)[1].values():
            weight.value_OI[::4, ::4] *= 20
    return model


def test_the_shares_are_those_of_the_dense_model_over_a_whole_block(windows):
    model = with_outliers()
    found, inputs = Outliers(), {}
    before = {name: weight.value_OI.clone() for name, weight in prunable_weights(model).items()}
    hooks = [
        weight.module.register_forward_pre_hook(lambda module, args, name=name: inputs.update({name: args[0]}))
        for name, weight in prunable_weights(model).items()
    ]
    with torch.no_grad():
        model(windows.long(), use_cache=False)
    for hook in hooks:
        hook.remove()
    prune_blocks(model, weights_by_block(model), found, {}, windows)
    for index, own in enumerate(weights_by_block(model)):
        norms = {name: inputs[name].flatten(0, -2).norm(dim=0) for name in own}
        scores = torch.cat([(weight.value_OI.abs() * norms[name]).flatten() for name, weight in own.items()])
        assert found.shares[index] == pytest.approx(float((scores > 5 * scores.mean()).float().mean()), abs=1e-3)
    assert found.shares[1] > found.shares[0]
    assert all(torch.equal(weight.value_OI, before[name]) for name, weight in prunable_weights(model).items())


@pytest.mark.parametrize(
    ("outliers", "sparsity", "wanted"),
    [
        ([0.01, 0.02, 0.03], 0.7, [0.78, 0.7, 0.62]),
        ([0.01, 0.01, 0.04], 0.7, [0.74, 0.74, 0.62]),
        ([0.02, 0.02, 0.02], 0.7, [0.7, 0.7, 0.7]),
        ([0.01, 0.02, 0.03], 0.95, [0.995, 0.95, 0.905]),
        ([0.01, 0.02, 0.03], 0.04, [0.08, 0.04, 0.0]),
    ],
)
def test_sparsities_of_blocks_are_within_the_width_and_their_mean_is_the_wanted(outliers, sparsity, wanted):
    found = block_sparsities(dict(enumerate(outliers)), dict.fromkeys(range(3), 100), sparsity)
    assert list(found.values()) == pytest.approx(wanted)


def test_the_mean_counts_entries_not_blocks():
    found = block_sparsities({0: 0.01, 1: 0.03}, {0: 300, 1: 100}, 0.5)
    assert (3 * found[0] + found[1]) / 4 == pytest.approx(0.5)
    assert found[1] == pytest.approx(0.42)


def task(windows, **changed):
    return Task(pattern=OWL, training=TRAINING, precision=PRECISION, windows=lambda count: windows[:count], **changed)


@pytest.mark.parametrize("method", [METHODS["sparsegpt"], METHODS["finetuned"].__class__(start=METHODS["alps"]),
                                    METHODS["swaps"], METHODS["safe"]], ids=lambda method: method.label)  # fmt: skip
def test_layerwise_methods_and_what_follows_them_meet_the_budget(method, windows):
    method.check_pattern(OWL)
    model = with_outliers()
    method.apply(model, task(windows))
    blocks = [[weight.value_OI == 0 for weight in own.values()] for own in weights_by_block(model)]
    counts = [(sum(int(zero.sum()) for zero in own), sum(zero.numel() for zero in own)) for own in blocks]
    assert sum(zeros for zeros, _ in counts) == round(0.7 * sum(size for _, size in counts))
    first, second = (zeros / size for zeros, size in counts)
    assert first == pytest.approx(0.78, abs=1e-3)
    assert second == pytest.approx(0.62, abs=1e-3)
    for own in blocks:
        assert max(zero.float().mean() for zero in own) - min(zero.float().mean() for zero in own) < 2e-3


def test_a_block_without_prunable_weights_has_no_part_in_it(windows):
    model = with_outliers()
    choose(model, ["model.layers.1.*"], [])
    METHODS["sparsegpt"].apply(model, task(windows))
    weights = prunable_weights(model).values()
    assert sum(int((w.value_OI == 0).sum()) for w in weights) == round(0.7 * sum(w.numel for w in weights))
    assert len(decoder_blocks(model)) == 2


@pytest.mark.parametrize(
    "method", [Magnitude(), FineTuned(start=Magnitude()), Swaps(start=Magnitude()), METHODS["elsa"], METHODS["best"],
               METHODS["elsa_plus"]], ids=lambda method: method.label,
)  # fmt: skip
def test_methods_without_calibration_windows_refuse_it(method):
    with pytest.raises(
        UserError, match=rf"^allocation=owl: method={method.label.replace('+', '.')} counts no outliers"
    ):
        method.check_pattern(OWL)
    SparseGPT().check_pattern(OWL)
