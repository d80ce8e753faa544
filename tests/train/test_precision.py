"""Bytes are counted, low precision stays close, and what saves memory changes no result but where it says so."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from elsa.admm.state import MergedState, SeparateState, start_state
from elsa.admm.storage import Stored
from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.errors import UserError
from elsa.method.base import Task
from elsa.sparsity.pattern import Pattern
from elsa.train.constraint import NoConstraint
from elsa.train.loss import direct, next_token_loss, prove_chunks
from elsa.train.rounding import rounded
from elsa.train.task import TrainingTask
from elsa.train.train import state_bytes, teacher_of, train
from tests.conftest import random_model
from tests.method.methods import PRECISION, TRAINING
from tests.train.building import optimizer_of, run_loop

DISTILLED = dataclasses.replace(TRAINING, distillation=0.5)
NINETY = Pattern(pattern="unstructured", ratio=0.9)
PRECISIONS = {n: build(PruneConfig, compose(f"precision={n}")).precision for n in ("elsa", "elsa_l", "elsa_l_paper")}


def weight(rows=64, columns=512):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02


@pytest.mark.parametrize(
    ("state", "most"),
    [("float32", 4.125), ("bfloat16", 2.125), ("float8", 1.16)],
)
def test_the_merged_state_holds_so_many_bytes_a_weight(state, most):
    assert MergedState(weight(), NINETY, state).nbytes / weight().numel() <= most


def test_the_papers_layout_holds_three():
    assert SeparateState(weight(), NINETY, "float8", "bfloat16").nbytes / weight().numel() == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize(("name", "most"), [("elsa", 16.125), ("elsa_l", 6.2), ("elsa_l_paper", 9.1)])
def test_weights_moments_and_admm_together(name, most):
    precision, model = PRECISIONS[name], torch.nn.Linear(512, 512, bias=False)
    with precision.applied(model) if not precision.activation_checkpointing else _unwrapped(model, precision):
        optimizer = optimizer_of(model, precision=precision)
        model(torch.ones(1, 512, dtype=model.weight.dtype)).sum().backward()
        optimizer.step("weight")
    found = state_bytes(model, optimizer)
    admm = start_state(model.weight.detach(), NINETY, precision).nbytes / model.weight.numel()
    assert found["weights_per_parameter"] + found["moments_per_parameter"] + admm <= most


def _unwrapped(model, precision):
    return dataclasses.replace(precision, activation_checkpointing=False).applied(model)


def test_changes_below_the_resolution_of_bf16_add_up_in_the_mean():
    torch.manual_seed(0)
    values = torch.ones(10_000, dtype=torch.bfloat16)
    for _ in range(100):
        values = rounded(values.float() * 0.9999, torch.bfloat16)  # one unit in the last place is 0.0039
    assert float(values.float().mean()) == pytest.approx(0.9999**100, abs=2e-3)
    exact = torch.tensor([1.0, -2.5, 0.0])
    assert torch.equal(rounded(exact, torch.bfloat16).float(), exact)
    assert rounded(exact * 1.0001, torch.float32).tolist() == (exact * 1.0001).tolist()


@pytest.mark.parametrize(("precision", "error"), [("float32", 0), ("bfloat16", 2**-8), ("float8", 2**-4)])
@pytest.mark.parametrize("margin", [None, 1.05])
def test_what_is_stored_is_read_back_to_its_precision(precision, error, margin):
    tensor = weight() * torch.logspace(-3, 3, 64)[:, None]
    tensor[5] = 0
    stored = Stored.of(tensor, precision, margin)
    read = stored.read().float()
    scale = tensor.abs().amax(1, keepdim=True) if margin is None else tensor.abs().max()
    # below fp8's smallest normal number the error is absolute
    assert bool(((read - tensor).abs() <= error * tensor.abs() + error * 2**-8 * scale).all())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_tensors_carry_the_rounding_of_z_in_u(precision):
    state = SeparateState(weight(), NINETY, "float8", precision)
    target = weight() * 1.1
    state.update(target, NINETY)
    dual = state.sparse() - state.difference()
    torch.testing.assert_close(dual, (target - state.sparse()).to(dual.dtype), rtol=2**-7, atol=1e-5)


def test_chunks_of_logits_give_the_same_loss_and_gradient(model, windows):
    ids = windows[:2].long()
    if model.config.model_type in ("gpt2", "gpt_neox"):
        model.eval()  # dropout
    else:
        model.train()
    whole = next_token_loss(model, ids)
    whole.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    parts = next_token_loss(model, ids, chunk=7)
    parts.backward()
    torch.testing.assert_close(parts, whole)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_a_model_with_logits_of_its_own_is_refused_for_chunks(llama, windows):
    prove_chunks(llama, direct(llama), windows)
    llama.lm_head.register_forward_hook(lambda module, args, output: output * args[0].shape[-2])
    with pytest.raises(UserError, match=r"set precision\.loss_chunk=null"):
        prove_chunks(llama, direct(llama), windows)


def trained(windows, clip=1e9, **changes):
    torch.manual_seed(0)
    precision, training = dataclasses.replace(PRECISION, **changes), dataclasses.replace(TRAINING, gradient_clip=clip)
    model = random_model("llama")
    with precision.applied(model):
        logged = run_loop(model, windows, training=training, precision=precision)
    return model.state_dict(), [metrics["loss"] for _, metrics in logged]


@pytest.mark.parametrize("change", [{"gradient_release": True}, {"activation_checkpointing": True}])
def test_saving_memory_changes_no_weight(windows, change):
    expected, losses = trained(windows)
    result, its_losses = trained(windows, **change)
    assert losses == its_losses
    assert all(torch.equal(result[key], expected[key]) for key in expected)


def test_released_gradients_are_clipped_by_the_norm_of_the_step_before(windows):
    """A clip far below every norm: Adam's step hardly feels it, but its direction must stay that of the gradient."""
    expected, _ = trained(windows, clip=1e-3)
    result, _ = trained(windows, clip=1e-3, gradient_release=True)
    start = random_model("llama").state_dict()
    for key in expected:
        moved, its_moved = (expected[key] - start[key]).flatten(), (result[key] - start[key]).flatten()
        assert torch.cosine_similarity(moved, its_moved, dim=0) > 0.98, key


def test_gradients_are_gone_after_a_released_step(windows):
    model = random_model("llama")
    precision = dataclasses.replace(PRECISION, gradient_release=True)
    with precision.applied(model):
        run_loop(model, windows, precision=precision)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "training", "ranks", "line"),
    [
        ({}, {"optimizer": "sgd"}, 1, "moments=8bit: is Adam's; training.optimizer=sgd"),
        ({"gradient_release": True}, {"accumulation": 2}, 1, "gradient_release=True: needs one part a rank and step"),
        ({"gradient_release": True}, {"accumulation": 4}, 2, "training.accumulation=4 gives 2"),
        ({"weights": "bfloat16"}, {"fixed_order": True}, 1, "weights=bfloat16: is rounded at random"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, training, ranks, line):
    with pytest.raises(UserError, match=line.replace(".", r"\.")):
        dataclasses.replace(PRECISION, moments="8bit", **changes).check(
            dataclasses.replace(TRAINING, **training), ranks
        )


def test_parts_may_be_as_many_as_there_are_ranks_with_released_gradients():
    precision = dataclasses.replace(PRECISION, gradient_release=True)
    precision.check(dataclasses.replace(TRAINING, accumulation=4), 4)


def test_bf16_weights_need_an_optimizer_that_rounds_stochastically():
    with pytest.raises(UserError, match=r"set precision\.moments=8bit"):
        dataclasses.replace(PRECISION, weights="bfloat16")


def test_distillation_is_zero_for_the_teacher_itself_and_cross_entropy_without(model, windows):
    ids = windows[:2].long()
    model.eval()
    torch.testing.assert_close(next_token_loss(model, ids, None, model, 1.0), torch.zeros(()), atol=1e-6, rtol=0)
    torch.testing.assert_close(next_token_loss(model, ids, None, model, 0.0), next_token_loss(model, ids))


def test_distillation_in_chunks_is_the_same(windows):
    ids, student, teacher = windows[:2].long(), random_model("llama", seed=1), random_model("llama")
    whole = next_token_loss(student, ids, None, teacher, 0.5)
    torch.testing.assert_close(next_token_loss(student, ids, 7, teacher, 0.5), whole)
    divergence = torch.nn.functional.kl_div(
        student(ids).logits[:, :-1].log_softmax(-1), teacher(ids).logits[:, :-1].log_softmax(-1), log_target=True,
        reduction="sum",
    )  # fmt: skip
    torch.testing.assert_close(whole, 0.5 * divergence / 30 + 0.5 * next_token_loss(student, ids))


def test_a_model_in_bf16_is_what_its_checkpoint_gives(model, tmp_path):
    """Compared tensor by tensor: where a file's weights lie in memory can change the last bit of a product."""
    model.save_pretrained(tmp_path)
    with PRECISIONS["elsa_l"].applied(model):
        pass
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    teacher = teacher_of(model, Task(pattern=NINETY, windows=None, training=DISTILLED, precision=PRECISIONS["elsa_l"]))
    assert next(model.parameters()).dtype == torch.bfloat16
    for found in (model, teacher):
        tensors = dict(found.named_parameters()) | dict(found.named_buffers())
        expected = dict(again.named_parameters()) | dict(again.named_buffers())
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor.to(expected[name].dtype), expected[name]), name  # Gemma rounds its scale itself


@pytest.mark.parametrize(
    ("autocast", "computed", "warns"), [("bfloat16", False, True), ("bfloat16", True, False), ("none", False, False)]
)
def test_bf16_on_a_processor_without_it_is_said_to_be_slow(windows, caplog, monkeypatch, autocast, computed, warns):
    monkeypatch.setattr("elsa.train.train.computes_bf16", lambda: computed)
    one_step = dataclasses.replace(TRAINING, steps=1, autocast=autocast)
    task = TrainingTask(training=one_step, precision=PRECISION, windows=lambda count: windows[:count])
    train(random_model("llama"), lambda optimizer: NoConstraint(), task)
    assert ("training.autocast=bfloat16: this processor has no bf16" in caplog.text) == warns
