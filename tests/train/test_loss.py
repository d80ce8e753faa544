"""The loss against transformers' own and against its definition, and what is derived from it."""

import dataclasses

import pytest
import torch

from elsa.errors import UserError
from elsa.model.weights import prunable_weights
from elsa.sparsity.allocation import allocate
from elsa.train.loss import direct, next_token_loss, prove_chunks, squared_gradients
from tests.conftest import random_model
from tests.method.methods import METHODS
from tests.method.test_contract import PATTERNS, task

CHUNKS = pytest.mark.parametrize("chunk", [None, 7])


@CHUNKS
def test_the_loss_is_transformers_own(model, windows, chunk):
    ids = windows[:3].long()
    torch.testing.assert_close(next_token_loss(model, ids, chunk), model(input_ids=ids, labels=ids).loss)


@CHUNKS
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_distillation_mixes_the_divergence_from_the_teacher_with_the_text(windows, family, chunk):
    ids, student, teacher = windows[:3].long(), random_model(family, seed=1), random_model(family)
    wanted = teacher(ids).logits.double().softmax(-1)
    predicted = student(ids).logits.double().softmax(-1)
    expected = 0.0
    for n in range(3):
        for place in range(15):  # the last token has no next
            p, q = wanted[n, place], predicted[n, place]
            expected += 0.3 * (p * (p / q).log()).sum() - 0.7 * q[ids[n, place + 1]].log()
    found = next_token_loss(student, ids, chunk, teacher, distillation=0.3)
    torch.testing.assert_close(found.double(), expected / 45, rtol=1e-5, atol=0)


@pytest.fixture
def marked(windows):
    """Windows of which a third is context, one of them but for two tokens, one but for its first."""
    context = torch.rand(windows.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    context[1, :12], context[1, 14:] = True, True
    context[2] = True
    context[2, 0] = False
    return torch.where(context, -1 - windows, windows)


@CHUNKS
@pytest.mark.parametrize("distillation", [0.0, 0.3])
def test_tokens_that_are_context_are_read_and_not_scored(llama, windows, marked, chunk, distillation):
    teacher = random_model("llama", seed=1) if distillation else None
    wanted = None if teacher is None else teacher(windows[:4].long()).logits.double().softmax(-1)
    predicted = llama(windows[:4].long()).logits.double().softmax(-1)
    losses = []
    for n in range(4):
        for place in range(15):
            if marked[n, place + 1] >= 0:
                loss = -(1 - distillation) * predicted[n, place, windows[n, place + 1].item()].log()
                if wanted is not None:
                    p, q = wanted[n, place], predicted[n, place]
                    loss = loss + distillation * (p * (p / q).log()).sum()
                losses.append(loss)
    assert 20 < len(losses) < 40
    found = next_token_loss(llama, marked[:4].long(), chunk, teacher, distillation)
    torch.testing.assert_close(found.double(), torch.stack(losses).mean(), rtol=1e-5, atol=0)


@CHUNKS
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_hidden_states_are_drawn_to_the_teachers_block_by_block(windows, marked, family, chunk):
    student, teacher = random_model(family, seed=1), random_model(family)
    ids, given = windows[:4].long(), marked[:4].long()
    found = [[], []]
    for model, outputs in zip((student, teacher), found, strict=True):
        layers = model.transformer.h if family == "gpt2" else model.model.layers
        hooks = [layer.register_forward_hook(lambda m, a, out, to=outputs: to.append(out)) for layer in layers]
        model(ids)
        for hook in hooks:
            hook.remove()
    expected = 0.0
    for own, wanted in zip(*found, strict=True):
        own, wanted = (each[0] if isinstance(each, tuple) else each for each in (own, wanted))
        each = [
            ((own[n, place] - wanted[n, place]).double().norm() / wanted[n, place].double().norm()) ** 2
            for n in range(4) for place in range(15) if marked[n, place + 1] >= 0
        ]  # fmt: skip
        expected = expected + torch.stack(each).mean()
    logits = next_token_loss(student, given, chunk, teacher, 0.3)
    both = next_token_loss(student, given, chunk, teacher, 0.3, 2.0)
    torch.testing.assert_close((both - logits).double(), 2 * expected, rtol=1e-5, atol=0)
    both.backward()
    assert all(layer._forward_hooks == {} for model in (student, teacher) for layer in model.modules())
    itself = next_token_loss(teacher, given, chunk, teacher, 1.0, 2.0)
    assert abs(itself) < 1e-5


@CHUNKS
def test_without_a_scored_token_the_loss_is_0_and_has_no_gradient(llama, marked, chunk):
    loss = next_token_loss(llama, marked[2:3].long(), chunk)
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in llama.parameters())


def test_chunks_are_proven_on_a_window_that_is_context_alone(llama, marked):
    llama.lm_head.register_forward_hook(lambda module, args, output: output * args[0].shape[-2])
    with pytest.raises(UserError, match=r"precision\.loss_chunk"):
        prove_chunks(llama, direct(llama), marked[2:3])


def naive_squared_gradients(model, parameters, windows):
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for window in windows.long():
        model.zero_grad()
        model(input_ids=window[None], labels=window[None]).loss.backward()
        sums = [total + parameter.grad**2 for total, parameter in zip(sums, parameters, strict=True)]
    model.zero_grad()
    return [total / len(windows) for total in sums]


def test_squared_gradients_need_one_gradient_at_a_time(llama, windows):
    parameters = {name: weight.parameter for name, weight in prunable_weights(llama).items()}
    alive = []
    for parameter in parameters.values():
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(each.grad is not None for each in llama.parameters()))
        )
    squared_gradients(llama, parameters, windows[:3])
    assert alive == [1] * (3 * len(parameters))
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_squared_gradients_are_squared_window_by_window_and_averaged(llama, windows):
    parameters = {name: weight.parameter for name, weight in prunable_weights(llama).items()}
    expected = naive_squared_gradients(llama, list(parameters.values()), windows[:5])
    found = squared_gradients(llama, parameters, windows[:5])
    assert list(found) == list(parameters)
    for name, naive in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], naive, rtol=1e-4, atol=1e-12)
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_a_layer_wise_method_spends_a_global_budget_by_the_dense_models_gradients(llama, windows):
    weights = prunable_weights(llama)
    squares = naive_squared_gradients(llama, [weight.parameter for weight in weights.values()], windows[:8])
    saliencies = {
        name: weight.value_OI**2 * square for (name, weight), square in zip(weights.items(), squares, strict=True)
    }
    given, _ = task(windows, dataclasses.replace(PATTERNS["70 %"], allocation="global"))
    METHODS["sparsegpt"].apply(llama, given)
    found = {name: int((weight.value_OI == 0).sum()) for name, weight in weights.items()}
    assert found == pytest.approx(allocate(saliencies.__getitem__, saliencies, 0.7), abs=2)  # rounding at the threshold
