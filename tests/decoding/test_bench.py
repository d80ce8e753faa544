"""Timing models side by side."""

import os

import pytest
import torch
from torch import nn

from elsa.decoding.bench import (
    CEILING,
    Load,
    against,
    bandwidth,
    busy,
    bytes_per_token,
    measure,
    resident_bytes,
    sides,
    verdict,
    with_layers,
)
from elsa.export.linear import SparseLinear
from elsa.model.weights import prunable_weights
from tests.conftest import random_model
from tests.kernels import needs_kernels


@pytest.fixture
def pruned():
    model = random_model("llama")
    for weight in prunable_weights(model).values():
        weight.value_OI[:, 2:] = 0
    return model


def test_a_ratio_is_paired_round_by_round():
    exact = against([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])  # rounds differ, the ratio does not
    assert exact == pytest.approx({"ratio": 2.0, "low": 2.0, "high": 2.0})
    noisy = against([1.0, 1.0, 1.0], [1.0, 2.0, 4.0])
    assert noisy["ratio"] == pytest.approx(2.0)
    half = 4.302653 * torch.tensor(2.0).log().item() / 3**0.5  # Student's t with 2 degrees of freedom
    assert torch.tensor(noisy["high"] / noisy["ratio"]).log().item() == pytest.approx(half, rel=1e-4)
    assert against([1.0], [2.0])["low"] == 0


def found(**seconds):
    return {name.replace("_", " "): {"seconds": values} for name, values in seconds.items()}


@needs_kernels
def test_the_verdict_is_against_the_fastest_dense_one_and_says_where_there_is_no_gain(pruned):
    every = sides([pruned.bfloat16()], ["bits", "csr"], compiled=False)
    times = {"sparse bits": [1.0, 1.1], "sparse csr": [3.0, 3.1], CEILING: [0.1, 0.1]}

    def said(dense):
        return verdict({name: {"seconds": each} for name, each in times.items()} | found(dense_bfloat16=dense), every)

    assert said([2.0, 2.2])["words"].startswith(
        "sparse bits is 2.00 times as fast as the fastest dense, dense bfloat16"
    )
    assert said([0.5, 0.55])["words"].startswith("no gain here: sparse bits has 0.50 times the speed")
    assert said([0.9, 1.3])["words"].startswith("no gain here that could be told")
    assert said([2.0, 2.2])["dense"] == "dense bfloat16"
    assert verdict({}, [])["words"].startswith("nothing to compare")


@needs_kernels
def test_sides_share_what_they_have_in_common_and_their_logits_are_compared(pruned):
    every = sides([pruned], None, compiled=False)
    names = [side.name for side in every]
    assert names == ["dense float32", "sparse bits", "sparse csr16", "sparse csr", "sparse scipy", CEILING]
    assert [side.is_dense for side in every] == [True, *[False] * 5]
    assert [side.is_sparse for side in every] == [False, *[True] * 4, False]
    for side in every:
        assert side.model.model.embed_tokens.weight is pruned.model.embed_tokens.weight
    assert isinstance(pruned.model.layers[0].mlp.up_proj, nn.Linear), "the model itself stays as it was"
    times = measure(every, Load(batch=2, prompt=3, tokens=4, rounds=2), 300)
    assert all(len(each["seconds"]) == 2 for each in times.values())
    assert all(times[name]["logits_differ"] < 1e-4 for name in names[:-1])
    assert times[CEILING]["logits_differ"] > 1e-2
    dense, bits = times["dense float32"], times["sparse bits"]
    assert dense["bytes"] == resident_bytes(pruned) > 1.5 * bits["bytes"]
    assert dense["tokens_per_second"] == pytest.approx(8 / sorted(dense["seconds"])[0], rel=0.9)


@needs_kernels
def test_a_model_of_several_shares_takes_the_form_that_fits_each(pruned):
    pruned.model.layers[0].mlp.up_proj.weight.data.fill_(1.0)
    fits = next(side for side in sides([pruned], None, compiled=False) if side.name == "sparse as fits")
    layers = [module for module in fits.model.modules() if isinstance(module, SparseLinear)]
    assert {layer.form.name for layer in layers} == {"dense", "csr16"}


@needs_kernels
def test_a_compiled_step_gives_the_same_logits(pruned, monkeypatch):
    monkeypatch.setattr("torch._dynamo.config.disable", False)
    every = sides([pruned], ["bits"], compiled=True)
    names = ["dense float32", "sparse bits", CEILING]
    assert [side.name for side in every] == names + [f"{name}, compiled" for name in names]
    chosen = [side for side in every if "bits" in side.name or side.name == "dense float32"]
    times = measure(chosen, Load(batch=1, prompt=3, tokens=3, rounds=2), 300)
    assert times["sparse bits, compiled"]["logits_differ"] < 1e-4


def test_an_embedding_is_read_if_it_is_the_head(pruned):
    table = resident_bytes(pruned.model.embed_tokens)
    assert bytes_per_token(pruned) == resident_bytes(pruned) - table
    tied = random_model("gemma2")
    assert bytes_per_token(tied) == resident_bytes(tied)


def test_layers_are_replaced_in_a_copy(pruned):
    other = with_layers(pruned, lambda weight: nn.Identity())
    assert sum(isinstance(module, nn.Identity) for module in other.modules()) == len(prunable_weights(pruned))


@pytest.mark.parametrize(("load", "warns"), [(0.1, False), (64.0, True)])
def test_a_busy_machine_is_told(monkeypatch, load, warns):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    assert (busy() is not None) == warns


def test_bandwidth_is_a_sum_over_time(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("elsa.decoding.bench._now", lambda device: float(next(clock)))
    monkeypatch.setattr("elsa.decoding.bench._READ", 4096)
    assert bandwidth(torch.device("cpu")) == 4096
