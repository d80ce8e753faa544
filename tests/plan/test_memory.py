"""Predicted bytes against bytes that are really there."""

import dataclasses

import pytest
import torch

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.model.weights import prunable_weights
from elsa.plan.memory import Need, Shape, advice, before_training, bytes_a_weight, measure, need
from elsa.sparsity.pattern import Pattern
from tests.conftest import CONFIGS, random_model
from tests.method.methods import METHODS, PRECISION, TRAINING
from tests.train.building import admm_on, optimizer_of

NINETY = Pattern(pattern="unstructured", ratio=0.9)


def predicted(family, precision=PRECISION, **options):
    shape = measure(CONFIGS[family], TRAINING, precision.weights, 16)
    given = {"state": METHODS["elsa"].state_bytes(precision), "devices": 1} | options
    return shape, need(shape, TRAINING, precision, 16, **given)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt"])
def test_weights_moments_and_admm_are_those_of_the_real_run(family, windows):
    model = random_model(family)
    optimizer = optimizer_of(model)
    model(input_ids=windows[:1].long(), labels=windows[:1].long()).loss.backward()
    optimizer.step()
    admm = admm_on(model, optimizer, NINETY)
    shape, found = predicted(family)
    assert found.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert found.moments == optimizer.nbytes
    assert found.state == pytest.approx(admm.nbytes, rel=1e-3)
    assert shape.prunable == sum(weight.numel for weight in prunable_weights(model).values())


def test_activations_are_what_autograd_really_keeps(llama, windows):
    seen = {parameter.untyped_storage().data_ptr() for parameter in llama.parameters()}
    kept, alive = 0, []

    def pack(tensor):
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            alive.append(tensor)
            kept += storage.nbytes()
        return tensor

    llama.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        llama.base_model(input_ids=windows[: TRAINING.batch_size].long(), use_cache=False)
    assert predicted("llama")[0].activations == pytest.approx(kept, rel=0.1)  # attention kernels differ


def test_each_way_to_save_memory_saves_where_it_says():
    shape, plain = predicted("llama", state=0.0)
    _, recomputed = predicted("llama", dataclasses.replace(PRECISION, activation_checkpointing=True))
    _, released = predicted("llama", dataclasses.replace(PRECISION, gradient_release=True), state=0.0)
    _, chunked = predicted("llama", dataclasses.replace(PRECISION, loss_chunk=8))
    _, spread = predicted("llama", devices=4, state=0.0)
    assert recomputed.activations < plain.activations
    assert released.gradients < plain.gradients
    head = 4 * shape.largest
    assert chunked.logits - head == (plain.logits - head) / 8
    assert spread.weights == plain.weights / 4
    assert spread.peak < plain.peak


SHAPE = Shape(
    parameters=1000, prunable=800, largest=100, blocks=4, vocabulary=50, activations=9000, largest_block=3000,
    boundary=500, block=150, outside=400, matrix=80, inputs=10,
)  # fmt: skip


def test_bytes_by_hand():
    shape = SHAPE
    training = dataclasses.replace(TRAINING, batch_size=8, accumulation=2)  # 4 windows of 16 tokens a part
    plain = need(shape, training, PRECISION, 16, state=4.25, devices=1)
    assert plain == Need(
        weights=4000, moments=8000, state=3400, gathered=0, gradients=4000, activations=9000,
        logits=64 * 50 * 16 + 100 * 4,
    )  # fmt: skip
    assert plain.peak == 4000 + 8000 + 3400 + 9000 + 51_200 + 400
    assert dataclasses.replace(plain, gradients=100_000).peak == 4000 + 8000 + 3400 + 100_000
    low = dataclasses.replace(
        PRECISION, weights="bfloat16", moments="8bit", gradient_release=True, activation_checkpointing=True,
        loss_chunk=8,
    )  # fmt: skip
    assert need(shape, training, low, 16, state=3.0, devices=1) == Need(
        weights=2000, moments=2000 * (1 + 4 / 256), state=2400, gathered=0, gradients=80 * 24,
        activations=4 * 500 + 3000, logits=8 * 50 * 16 + 100 * 2,
    )  # fmt: skip
    assert need(shape, training, low, 16, state=0.0, devices=1).gradients == 100 * 2  # no z and u to update


def test_bytes_of_a_rank_by_hand():
    """Blocks of 150 parameters at most and 400 outside them: whole while they are used, and their gradients twice."""
    training = dataclasses.replace(TRAINING, batch_size=8, accumulation=2)
    spread = need(SHAPE, training, PRECISION, 16, state=4.25, devices=8)  # parts of 1 window where SHAPE's have 4
    assert spread == Need(
        weights=500, moments=1000, state=425, gathered=4 * (400 + 2 * 150), gradients=500 + 2 * 4 * 400,
        activations=2250, logits=16 * 50 * 16 + 100 * 4, wire=4 * (2 * 600 + 400 + 1000) * 7 / 8,
    )  # fmt: skip
    two = need(SHAPE, training, PRECISION, 16, state=4.25, devices=2)
    assert (two.activations, two.wire) == (9000, 4 * (2 * 600 + 400 + 1000) / 2)
    four_parts = need(SHAPE, dataclasses.replace(training, accumulation=4), PRECISION, 16, state=4.25, devices=2)
    assert four_parts.wire == 2 * two.wire
    distilled = need(SHAPE, dataclasses.replace(training, distillation=0.5), PRECISION, 16, state=4.25, devices=2)
    assert distilled.weights == 4 * (500 + 300 + 400)
    assert distilled.gathered == two.gathered + 4 * 2 * 150
    assert distilled.wire == two.wire + 4 * 600 / 2
    assert bytes_a_weight(SHAPE, training, two, 2) == bytes_a_weight(SHAPE, training, spread, 8) == 4 + 8 + 4.25


def test_what_prunes_before_the_training_is_planned_too():
    assert before_training(SHAPE, 4, 16, budget=False) == 4000 + 6 * 4 * 10**2
    assert before_training(SHAPE, 2, 16, budget=True) == 2000 + 4 * 800 + 9000 + 16 * 50 * 16


def test_distillation_needs_the_dense_model_too():
    shape, plain = predicted("llama")
    distilled = dataclasses.replace(TRAINING, distillation=0.5)
    assert need(shape, distilled, PRECISION, 16, state=0.0, devices=1).weights == 2 * plain.weights


def test_dense_hidden_states_are_held_through_the_step():
    shape, plain = predicted("llama")
    hidden = dataclasses.replace(TRAINING, hidden_distillation=1.0)
    found = need(shape, hidden, PRECISION, 16, state=0.0, devices=1)
    assert found.weights == 2 * plain.weights
    assert found.activations == plain.activations + 2 * shape.blocks * shape.boundary


def test_advice_stops_at_the_first_change_that_fits():
    _, plain = predicted("llama")
    half, quarter = dataclasses.replace(plain, weights=plain.weights / 2), dataclasses.replace(plain, weights=0)
    changes = {"a": lambda: half, "b": lambda: quarter, "c": lambda: pytest.fail("already fits")}
    tried = advice(plain, lambda each: each.weights < plain.weights / 4, changes)
    assert [name for name, _ in tried] == ["as given", "a", "b"]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("llama_2_7b", 6_738_415_616), ("llama_2_13b", 13_015_864_320), ("gemma_2_27b", None),
        ("qwen3_30b_a3b", 30_532_122_624),
    ],
)  # fmt: skip
def test_the_large_models_can_be_planned_without_a_hub(model, parameters, tmp_path):
    source = build(PruneConfig, compose(f"model={model}")).model
    shape = measure(source.sizes(tmp_path), dataclasses.replace(TRAINING, batch_size=1), "bfloat16", 128)
    assert parameters is None or shape.parameters == parameters
    assert shape.prunable > 0.85 * shape.parameters
