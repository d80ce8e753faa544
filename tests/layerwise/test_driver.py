import dataclasses

import pytest
import torch

from elsa.errors import UserError
from elsa.layerwise.capture import capture
from elsa.layerwise.driver import LayerPruner, prune_blocks
from elsa.model.weights import decoder_blocks, prunable_weights, weights_by_block
from elsa.sparsity.pattern import Pattern
from tests.conftest import CONFIGS, random_model

HALF = Pattern(pattern="unstructured", ratio=0.5)


class Probe(LayerPruner):
    """Notes what the driver hands over and leaves the weights alone."""

    def __init__(self):
        self.statistics, self.tokens, self.prepared = [], {}, 0

    def init_statistics(self, weight_OI):
        self.statistics.append(torch.zeros(weight_OI.shape[1]))
        return self.statistics[-1]

    def update_statistics(self, statistics, inputs_TI):
        statistics += inputs_TI.square().sum(0)
        self.tokens[id(statistics)] = self.tokens.get(id(statistics), 0) + len(inputs_TI)

    def prepare(self, statistics):
        self.prepared += 1
        return statistics

    def prune(self, weight_OI, prepared, pattern):
        return weight_OI


def drive(model, pruner, windows):
    prune_blocks(model, weights_by_block(model), pruner, dict.fromkeys(prunable_weights(model), HALF), windows)


def test_replayed_blocks_give_what_the_model_gives(model, windows):
    blocks = decoder_blocks(model)
    replay = capture(model, blocks, windows)
    norms = []
    hook = blocks[-1].register_forward_hook(lambda block, args, output: norms.append(output))
    with torch.no_grad():
        model(windows.long(), use_cache=False)
        hook.remove()
        for index in range(len(blocks)):
            replay.propagate(index)
    expected = norms[0][0] if isinstance(norms[0], tuple) else norms[0]
    torch.testing.assert_close(torch.cat(list(replay.hidden)), expected, rtol=1e-4, atol=1e-4)


def test_a_replay_that_differs_from_the_model_is_refused(llama, windows):
    blocks = decoder_blocks(llama)
    forward = llama.model.norm.forward
    calls = []

    def stateful(hidden):  # the second forward of the model is not the first
        calls.append(1)
        return forward(hidden)

    llama.model.norm.forward = stateful
    blocks[0].register_forward_hook(lambda block, args, output: output * (1 + len(calls)))
    with pytest.raises(UserError, match="one by one differs"):
        capture(llama, blocks, windows)


def test_layers_with_the_same_input_share_one_statistic(llama, windows):
    probe = Probe()
    drive(llama, probe, windows)
    assert len(probe.statistics) == probe.prepared == 2 * 4  # q+k+v, o, gate+up, down in each of two blocks
    assert set(probe.tokens.values()) == {windows.numel()}


def test_statistics_are_those_of_the_real_forward(llama, windows):
    probe, expected = Probe(), []
    hook = llama.model.layers[1].mlp.gate_proj.register_forward_pre_hook(
        lambda module, args: expected.append(args[0].flatten(0, 1).square().sum(0))
    )
    with torch.no_grad():
        llama(windows.long(), use_cache=False)
    hook.remove()
    drive(llama, probe, windows)
    torch.testing.assert_close(probe.statistics[6], expected[0], rtol=1e-4, atol=1e-4)


def test_a_model_in_training_mode_is_run_without_dropout(windows, monkeypatch):
    monkeypatch.setattr(CONFIGS["opt"], "dropout", 0.5)
    evaluating, training = Probe(), Probe()
    drive(random_model("opt"), evaluating, windows)
    drive(random_model("opt").train(), training, windows)
    assert all(map(torch.equal, training.statistics, evaluating.statistics))


def test_later_blocks_see_the_pruned_ones(windows):
    class PruneFirst(Probe):
        def prune(self, weight_OI, prepared, pattern):
            return torch.zeros_like(weight_OI)

    plain, pruning = Probe(), PruneFirst()
    drive(random_model("llama"), plain, windows)
    drive(random_model("llama"), pruning, windows)
    assert torch.equal(plain.statistics[0], pruning.statistics[0])
    assert not torch.allclose(plain.statistics[4], pruning.statistics[4])


def test_a_failed_factorisation_names_layer_and_remedy(llama, windows):
    class Failing(Probe):
        def prepare(self, statistics):
            torch.linalg.cholesky(-torch.eye(3))

    with pytest.raises(UserError, match=r"method\.damping: .*self_attn\.q_proj\.weight.*raise the damping"):
        drive(llama, Failing(), windows)


def test_weights_that_are_no_numbers_are_named(llama, windows):
    class NeedsNoInputs(Probe):
        needs_inputs = False

    prunable_weights(llama)["model.layers.1.mlp.down_proj.weight"].value_OI[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"weights of model\.layers\.1\.mlp\.down_proj\.weight hold NaN or infinity"):
        drive(llama, NeedsNoInputs(), windows)


def test_inputs_that_are_no_numbers_are_named(llama, windows):
    class Breaking(Probe):
        def update_statistics(self, statistics, inputs_TI):
            statistics += inputs_TI.square().sum(0) * torch.inf

    with pytest.raises(UserError, match=r"inputs of model\.layers\.0\.self_attn\.q_proj\.weight hold NaN or infinity"):
        drive(llama, Breaking(), windows)


@dataclasses.dataclass
class Moments:
    squares: torch.Tensor
    count: int = 0


FORMS = {
    "dict": lambda zeros: {"squares": zeros, "name": "none"},
    "tuple": lambda zeros: (3, [zeros]),
    "dataclass": lambda zeros: Moments(squares=zeros),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factor", [1.0, torch.inf])
def test_a_statistic_may_be_anything_and_the_tensors_in_it_are_looked_at(llama, windows, form, factor):
    class Holding(Probe):
        def init_statistics(self, weight_OI):
            self.statistics.append(torch.zeros(weight_OI.shape[1]))
            return FORMS[form](self.statistics[-1])

        def update_statistics(self, statistics, inputs_TI):
            self.statistics[-1].add_(inputs_TI.square().sum(0)[0] * factor)

    probe = Holding()
    if factor == 1.0:
        drive(llama, probe, windows)
        assert probe.prepared == 8
    else:
        with pytest.raises(UserError, match=r"the inputs of model\.layers\.0\.\S+ hold NaN or infinity"):
            drive(llama, probe, windows)


def test_a_layer_that_no_token_reaches_is_named(llama, windows):
    mlp = llama.model.layers[0].mlp
    mlp.expert = torch.nn.Linear(32, 32)  # as an expert that the router never picks
    with pytest.raises(UserError, match=r"no calibration token reaches \S+\.0\.mlp\.expert\.weight.*use more windows"):
        drive(llama, Probe(), windows)


def test_the_model_is_left_without_hooks(llama, windows):
    drive(llama, Probe(), windows)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in llama.modules())


def test_tokens_that_are_not_scored_are_calibrated_on_like_all_others(llama, windows):
    plain, marked = Probe(), Probe()
    drive(llama, plain, windows)
    drive(llama, marked, torch.where(windows % 2 == 0, -1 - windows, windows))
    for one, other in zip(plain.statistics, marked.statistics, strict=True):
        assert torch.equal(one, other)
