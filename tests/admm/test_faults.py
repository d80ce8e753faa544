"""The faults of the official code must be absent here, and the loop must do what it says."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from elsa.admm.penalty import Constant, Linear
from elsa.errors import UserError
from elsa.train.budget import Training
from tests.method.methods import PRECISION
from tests.train.building import admm_on, optimizer_of, run_loop


def one_layer(weight, **options):
    """ADMM on a single linear layer with the given weight, its optimiser, and the layer."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    optimizer = optimizer_of(layer, training())
    settings = {"steps": 100, "interval": 10, "penalty": Constant(value=0.1), "training": training(steps=100)}
    return layer, optimizer, admm_on(layer, optimizer, **settings | options)


def set_second_moment(optimizer, value):
    optimizer._of["weight"].state[optimizer._own["weight"]] = {"exp_avg_sq": value}


def test_projection_uses_adams_second_moment():
    layer, optimizer, admm = one_layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), objective_aware=True)
    set_second_moment(optimizer, torch.tensor([[100.0, 100.0, 0.01, 0.01]]))
    admm.finish()
    assert layer.weight.tolist() == [[1.0, 2.0, 0.0, 0.0]]


@pytest.mark.parametrize("dual", [None, "float32"], ids=["merged", "papers"])
def test_dual_is_rescaled_at_the_moment_the_penalty_changes(dual):
    precision = dataclasses.replace(PRECISION, dual=dual)
    layer, _, admm = one_layer(
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]), penalty=Linear(start=0.0, end=1.0), precision=precision
    )
    before = admm.penalty
    admm.after_step(10)
    assert admm.penalty == pytest.approx(2 * before)
    layer.weight.grad = torch.zeros(1, 4)
    admm.on_gradient("weight")
    expected = torch.tensor([[1.5, 3.0, 0.0, 0.0]])  # x − z + u: u was 1 and 2, and λ doubled
    torch.testing.assert_close(layer.weight.grad, admm.penalty * expected)


def test_a_ramp_from_zero_never_wipes_the_dual():
    _, _, admm = one_layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), penalty=Linear(start=0.0, end=1.0))
    for step in range(10, 101, 10):
        assert admm.penalty > 0
        admm.after_step(step)
        state = admm._states["weight"]
        assert bool(((-state.difference() * ~state.mask()).abs().sum(1) > 0).all())


def test_proximal_gradient_is_the_penalty_times_the_distance_and_is_not_clipped():
    layer, _, admm = one_layer(torch.tensor([[10.0, 20.0, 3000.0, 4000.0]]))
    layer.weight.grad = torch.zeros(1, 4)
    admm.on_gradient("weight")
    assert layer.weight.grad.tolist() == [[1.0, 2.0, 0.0, 0.0]]  # 0.1 · (x − z): whatever the number of processes


def test_ties_do_not_prune_more_than_asked():
    layer, _, admm = one_layer(torch.ones(10, 10))
    admm.finish()
    assert int((layer.weight == 0).sum()) == 50


class Recorder(nn.Module):
    """A model that notes the batches it sees and whether it trains."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 10)
        self.seen = []

    def forward(self, input_ids, use_cache):
        self.seen.append((input_ids.clone(), self.training))
        return type("Output", (), {"logits": self.table(input_ids)})


def training(**changes):
    settings = {
        "steps": 6, "batch_size": 2, "accumulation": 1, "optimizer": "adam", "learning_rate": 0.1, "warmup_steps": 0,
        "decay_fraction": 1.0, "beta1": 0.9, "beta2": 0.95, "gradient_clip": 1.0, "autocast": "none",
        "distillation": 0.0, "hidden_distillation": 0.0, "distinct_windows": None,
    }  # fmt: skip
    return Training(**settings | changes)


def run(settings, model=None):
    torch.manual_seed(0)
    model = model or Recorder()
    windows = torch.randint(0, 10, (12, 5), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    model.train()
    return model, windows, run_loop(model, windows, training=settings)


def test_nothing_is_evaluated_while_training():
    model, windows, _ = run(training())
    assert torch.equal(torch.cat([ids for ids, _ in model.seen]), windows.long())
    assert all(was_training for _, was_training in model.seen)


def test_accumulation_gives_the_same_weights():
    whole, _, _ = run(training())
    parts, _, _ = run(training(accumulation=2))
    torch.testing.assert_close(whole.table.weight, parts.table.weight)


def test_learning_rate_falls_linearly_to_zero_after_warm_up_and_plateau():
    paper = training(steps=4)
    assert [paper.learning_rate_at(step) for step in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    later = training(steps=10, warmup_steps=2, decay_fraction=0.4)
    expected = [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.075, 0.05, 0.025]
    assert [later.learning_rate_at(step) for step in range(10)] == pytest.approx(expected)


def test_travel_is_the_sum_of_the_learning_rates_of_those_steps():
    assert training(steps=4).travel(1, 3) == pytest.approx(0.075 + 0.05)
    assert training(steps=4).travel(0, 4) == pytest.approx(0.25)
    assert training(optimizer="sgd").travel(0, 4) is None


@pytest.mark.parametrize(("value", "rate"), [(math.nan, 0.1), (0.0, 1e3)])
def test_a_loss_that_says_nothing_any_more_stops_the_run(value, rate):
    model = Recorder()
    model.table.weight.data.fill_(value)
    with pytest.raises(UserError, match=r"diverged by step 6 \(loss (nan|\d+), .*\); try a lower.*no state was saved"):
        run(training(learning_rate=rate), model)


def test_fewer_windows_than_the_budget_are_repeated_epoch_by_epoch():
    def draw(count):
        return torch.arange(count)[:, None]

    assert training().windows(draw).flatten().tolist() == list(range(12))
    assert torch.equal(training(distinct_windows=99).windows(draw), training().windows(draw))
    seen = training(distinct_windows=5).windows(draw).flatten().tolist()
    assert seen[:5] == [0, 1, 2, 3, 4]
    assert sorted(seen[5:10]) == [0, 1, 2, 3, 4]
    assert len(seen) == 12
    assert seen[5:10] != seen[:5]
