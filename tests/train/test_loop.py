"""One step of the loop against the gradient that autograd gives for its batch: plain SGD hides nothing."""

import dataclasses

import pytest
import torch

from elsa.train.constraint import NoConstraint
from tests.conftest import random_model
from tests.method.methods import PRECISION, TRAINING
from tests.train.building import run_loop

SGD = dataclasses.replace(
    TRAINING, steps=1, optimizer="sgd", beta1=0.0, learning_rate=0.5, autocast="none", gradient_clip=1e9
)


class Pull(NoConstraint):
    """Adds 2 to every entry of a gradient."""

    def __init__(self, model):
        self._parameters = dict(model.named_parameters())

    def on_gradient(self, name):
        self._parameters[name].grad.add_(2.0)


def one_step(windows, constraint, gradient_release=False, **changes):
    """How far each parameter moved, over the learning rate, and the reported loss."""
    model, training = random_model("llama"), dataclasses.replace(SGD, **changes)
    precision = dataclasses.replace(PRECISION, gradient_release=gradient_release)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ((_, metrics),) = run_loop(model, windows, training=training, precision=precision, constraint=constraint(model))
    return {name: (before[name] - value) / 0.5 for name, value in model.state_dict().items()}, metrics["loss"]


def gradients(windows, labels=None):
    """Of the mean loss of a batch, by name; and that loss."""
    model = random_model("llama")
    loss = model(input_ids=windows.long(), labels=(windows if labels is None else labels).long()).loss
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, loss.item()


def assert_close(found, expected):
    assert found.keys() >= expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradient_release", [False, True])
def test_the_losss_gradient_is_clipped_and_that_of_the_constraint_is_not(windows, gradient_release):
    moved, _ = one_step(windows, Pull, gradient_release, gradient_clip=0.1)
    expected, _ = gradients(windows[:4])
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert norm > 0.2
    assert_close(moved, {name: 2.0 + gradient * 0.1 / norm for name, gradient in expected.items()})


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_accumulated_parts_give_the_gradient_and_the_loss_of_the_whole_batch(windows, parts):
    moved, loss = one_step(windows, lambda model: NoConstraint(), accumulation=parts)
    expected, whole = gradients(windows[:4])
    assert_close(moved, expected)
    assert loss == pytest.approx(whole)


@pytest.mark.parametrize("fixed_order", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_weigh_as_many_tokens_as_they_have_scored(windows, parts, fixed_order):
    context = torch.zeros(24, 16, dtype=torch.bool)
    context[0, 3:], context[1], context[2, 1:9] = True, True, True
    marked, labels = torch.where(context, -1 - windows, windows), torch.where(context, -100, windows)
    moved, loss = one_step(marked, lambda model: NoConstraint(), accumulation=parts, fixed_order=fixed_order)
    expected, whole = gradients(windows[:4], labels[:4])
    assert_close(moved, expected)
    assert loss == pytest.approx(whole)
