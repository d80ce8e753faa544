"""SAFE on one block against its algorithm written out: sharpness-aware ADMM with two tensors, by autograd and Adam."""

import dataclasses

import pytest
import torch

from elsa.layerwise.capture import capture
from elsa.method.safe import Safe
from elsa.model.weights import decoder_blocks, weights_by_block
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import project
from tests.conftest import random_model

PATTERNS = {"70 %": Pattern(pattern="unstructured", ratio=0.7), "2:4": Pattern(pattern="2:4", ratio=None)}
SAFE = Safe(calibration_windows=8, epochs=3, learning_rate=3e-3, penalty=0.3, perturbation=0.05, interval=2)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Two windows a batch, so that four make an epoch."""
    monkeypatch.setattr("elsa.layerwise.capture._TOKENS_A_BATCH", 32)


def first_block(windows):
    model = random_model("llama")
    replay = capture(model, decoder_blocks(model), windows[:8])
    assert len(replay.hidden) == 4
    return replay, weights_by_block(model)[0]


def input_energies(replay, layers):
    """Σ x² of what flows into each layer of the dense block, [1, I]."""
    energies = {name: torch.zeros(1, weight.value_OI.shape[1]) for name, weight in layers.items()}

    def add(name):
        def hook(module, args):
            energies[name] += args[0].flatten(0, -2).square().sum(0, keepdim=True)

        return hook

    hooks = [weight.module.register_forward_pre_hook(add(name)) for name, weight in layers.items()]
    with torch.no_grad():
        for hidden in replay.hidden:
            replay.run(0, hidden)
    for hook in hooks:
        hook.remove()
    return energies


def error_gradients(replay, parameters, batch, target):
    output = replay.run(0, replay.hidden[batch])
    loss = ((output - target) ** 2).sum() / (target**2).sum()
    return torch.autograd.grad(loss, parameters)


def naive(method, replay, layers, pattern):
    """Change the layers in place, as the docstring of `Safe` has it."""
    energies = input_energies(replay, layers) if method.activation_aware else dict.fromkeys(layers)
    parameters = {name: weight.parameter for name, weight in layers.items()}
    with torch.no_grad():
        targets = [replay.run(0, hidden) for hidden in replay.hidden]
    z = {name: project(p.detach(), pattern) for name, p in parameters.items()}
    u = {name: torch.zeros_like(p) for name, p in parameters.items()}
    adam = torch.optim.Adam(parameters.values(), lr=method.learning_rate)
    steps = method.epochs * len(targets)
    for step in range(steps):
        batch, x = step % len(targets), {name: p.detach().clone() for name, p in parameters.items()}
        gradients = error_gradients(replay, parameters.values(), batch, targets[batch])
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        with torch.no_grad():
            for p, gradient in zip(parameters.values(), gradients, strict=True):
                p += 0 if norm == 0 else method.perturbation * gradient / norm  # the dense block has no error at first
        worst = error_gradients(replay, parameters.values(), batch, targets[batch])
        with torch.no_grad():
            for (name, p), gradient in zip(parameters.items(), worst, strict=True):
                p.copy_(x[name])
                p.grad = gradient + method.penalty * (p - z[name] + u[name])
        adam.param_groups[0]["lr"] = method.learning_rate * (1 - step / steps)
        adam.step()
        if (step + 1) % method.interval == 0:
            for name, p in parameters.items():
                target = p.detach() + u[name]
                z[name] = project(target, pattern, energies[name])
                u[name] = target - z[name]
    for name, p in parameters.items():
        p.data = project(p.detach(), pattern, energies[name])


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("change", [{}, {"activation_aware": False}, {"interval": 3}, {"perturbation": 0.0}], ids=str)
def test_a_block_is_pruned_by_sharpness_aware_admm_on_its_output_error(windows, pattern, change):
    method = dataclasses.replace(SAFE, **change)
    replay, layers = first_block(windows)
    with torch.no_grad():  # as the driver has it
        method.prune_block(replay, 0, layers, dict.fromkeys(layers, pattern))
    its_replay, expected = first_block(windows)
    naive(method, its_replay, expected, pattern)
    for name, weight in layers.items():
        assert torch.equal(weight.value_OI != 0, expected[name].value_OI != 0), name
        torch.testing.assert_close(weight.value_OI, expected[name].value_OI, rtol=1e-3, atol=1e-5)
        assert weight.parameter.grad is None
