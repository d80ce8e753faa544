"""BEST against a direct implementation of its recipe, step by step."""

import pytest
import torch
from torch.nn import functional as F

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.model.weights import prunable_weights
from elsa.train.gradual import GradualPruning
from tests.conftest import random_model
from tests.method.methods import task_of

STEPS, INTERVAL, RATE, CLIP, SPARSITY = 20, 2, 3e-3, 1.0, 0.6


def shipped(*overrides):
    small = [f"training.steps={STEPS}", "training.batch_size=2", f"training.learning_rate={RATE}"]
    small += [f"method.interval={INTERVAL}", "training.autocast=none", f"sparsity.ratio={SPARSITY}"]
    return build(PruneConfig, compose("method=best", *small, *overrides))


@pytest.fixture(scope="module")
def windows():
    return torch.randint(0, 300, (2 * STEPS, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


def after_every_step(config, windows, monkeypatch):
    """The prunable weights after each step, and the rates."""
    model, found, rates = random_model("llama"), [], []
    after_step = GradualPruning.after_step

    def spy(self, step):
        metrics = after_step(self, step)
        found.append({name: weight.value_OI.clone() for name, weight in self._weights.items()})
        rates.append(self._projection.optimizer._optimizers[0].param_groups[0]["lr"])
        return metrics

    monkeypatch.setattr(GradualPruning, "after_step", spy)
    config.method.apply(model, task_of(config, windows))
    return found, [float(rate) for rate in rates]


def direct(windows):
    """The recipe in one loop: Adam, warm-up over 10 %, linear decay, one threshold on w² · v over half of the steps."""
    model = random_model("llama").train()
    names = prunable_weights(model).keys()
    pruned = {name: parameter for name, parameter in model.named_parameters() if name in names}
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.95), fused=True)
    masks = {name: torch.ones_like(parameter) for name, parameter in pruned.items()}
    sizes = sum(parameter.numel() for parameter in pruned.values())
    found, rates = [], []
    for step in range(1, STEPS + 1):
        rate = RATE * min(step / 2, (STEPS - step + 1) / STEPS, 1)
        ids = windows[2 * step - 2 : 2 * step].long()
        logits = model(ids).logits[:, :-1].flatten(0, 1).float()
        F.cross_entropy(logits, ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        with torch.no_grad():
            for name, parameter in pruned.items():
                parameter.grad *= masks[name]
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
            for name, parameter in pruned.items():
                parameter *= masks[name]
            if step % INTERVAL == 0 and step <= STEPS / 2:
                sparsity = SPARSITY * (1 - (1 - step / (STEPS / 2)) ** 3)
                scores = {n: p.square() * optimizer.state[p]["exp_avg_sq"] for n, p in pruned.items()}
                every = torch.cat([score.flatten() for score in scores.values()]).sort().values
                threshold = every[round(sparsity * sizes) - 1]
                for name, parameter in pruned.items():
                    masks[name] = (scores[name] > threshold).float()
                    parameter *= masks[name]
        found.append({name: parameter.detach().clone() for name, parameter in pruned.items()})
        rates.append(rate)
    return found, rates


def test_it_is_the_recipe_step_by_step(windows, monkeypatch):
    ours, our_rates = after_every_step(shipped(), windows, monkeypatch)
    theirs, rates = direct(windows)
    assert our_rates == pytest.approx(rates)
    assert len(ours) == STEPS
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True), 1):
        for name in other:
            assert torch.equal(one[name] == 0, other[name] == 0), (step, name)
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-7)
    zeros = [int((value == 0).sum()) for value in ours[-1].values()]
    assert sum(zeros) == round(SPARSITY * sum(value.numel() for value in ours[-1].values()))
    assert max(zeros) / min(zeros) > 1.01, "one threshold, not equal shares"


def test_what_it_leaves_to_no_other_choice_can_still_be_chosen():
    assert (shipped().sparsity.name, shipped().training.warmup_steps) == ("60% global", 2)
    asked = shipped("sparsity.allocation=uniform", "training.warmup_steps=0")
    assert (asked.sparsity.name, asked.training.warmup_steps) == ("60%", 0)
    assert shipped("sparsity=2of4", "sparsity.ratio=null").sparsity.name == "2:4"
    other = build(PruneConfig, compose("method=elsa"))
    assert (other.sparsity.name, other.training.warmup_steps) == ("50%", 0)


def test_finetuning_after_it_takes_its_choices():
    config = build(PruneConfig, compose("method=finetuned", "method.start=best"))
    assert config.sparsity.allocation == "global"
    assert config.training.warmup_steps == round(0.1 * config.training.steps)


def test_no_layer_is_cut_off_even_by_one_threshold(windows):
    config, model = shipped("sparsity.ratio=0.99"), random_model("llama")
    first = next(iter(prunable_weights(model).values()))
    first.write(first.value_OI * 1e-20)
    config.method.apply(model, task_of(config, windows))
    assert int((first.value_OI != 0).sum()) == 1
