"""One real layer against the outputs of the official codes. Needs ELSA_REFERENCE_OUTPUTS=<folder>; skipped without.

The folder holds `layer5.q_proj.safetensors`: W, X and per method and sparsity the kept mask and values.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from elsa.method.l_admm import LAdmm
from elsa.method.magnitude import Magnitude
from elsa.method.sparsegpt import SparseGPT
from elsa.method.swaps import Swaps, swap
from elsa.method.wanda import Wanda
from elsa.sparsity.pattern import Pattern
from tests.method.methods import METHODS

FOLDER = os.environ.get("ELSA_REFERENCE_OUTPUTS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="ELSA_REFERENCE_OUTPUTS names no folder of official outputs")

PATTERNS = {
    "0.5": Pattern(pattern="unstructured", ratio=0.5),
    "0.7": Pattern(pattern="unstructured", ratio=0.7),
    "0.9": Pattern(pattern="unstructured", ratio=0.9),
    "2to4": Pattern(pattern="2:4", ratio=None),
}


@pytest.fixture(scope="module")
def layer():
    return load_file(Path(FOLDER) / "layer5.q_proj.safetensors")


def reference(layer, method, sparsity):
    weight = layer["W"]
    packed = layer[f"{method}.{sparsity}.mask"].numpy()
    kept = torch.from_numpy(np.unpackbits(packed)[: weight.numel()].astype(bool)).view_as(weight)
    values = layer.get(f"{method}.{sparsity}.values")
    result = torch.zeros_like(weight)
    result[kept] = weight[kept] if values is None else values
    return result, kept


def error(layer, pruned):
    inputs = layer["X"].double()
    difference = inputs @ (layer["W"] - pruned).double().t()
    return float(difference.square().sum() / (inputs @ layer["W"].double().t()).square().sum())


def prune(layer, pruner, pattern):
    weight = layer["W"].clone()
    prepared = None
    if pruner.needs_inputs:
        statistics = pruner.init_statistics(weight)
        for sequence in layer["X"].float().split(512):
            pruner.update_statistics(statistics, sequence)
        prepared = pruner.prepare(statistics)
    return pruner.prune(weight, prepared, pattern)


@pytest.mark.parametrize("sparsity", PATTERNS)
def test_magnitude_matches_the_official_mask(layer, sparsity):
    expected, kept = reference(layer, "magnitude", sparsity)
    pruned = prune(layer, Magnitude(match_reference=True), PATTERNS[sparsity])
    assert torch.equal(pruned, expected)
    assert torch.equal(pruned != 0, kept & (layer["W"] != 0))


@pytest.mark.parametrize("sparsity", PATTERNS)
def test_magnitude_has_the_official_error_but_for_ties(layer, sparsity):
    expected, _ = reference(layer, "magnitude", sparsity)
    pruned = prune(layer, Magnitude(match_reference=False), PATTERNS[sparsity])
    ties = 0.02 if sparsity == "2to4" else 0.01  # weights from a 4-bit file tie often within a group of four
    assert error(layer, pruned) == pytest.approx(error(layer, expected), rel=ties)


@pytest.mark.parametrize("sparsity", PATTERNS)
def test_wanda_has_the_official_mask(layer, sparsity):
    _, kept = reference(layer, "wanda", sparsity)
    pruned = prune(layer, Wanda(calibration_windows=12), PATTERNS[sparsity])
    assert torch.equal(pruned != 0, kept & (layer["W"] != 0))


@pytest.mark.parametrize("sparsity", PATTERNS)
def test_sparsegpt_matches_the_official_mask_and_error(layer, sparsity):
    expected, kept = reference(layer, "sparsegpt", sparsity)
    pruner = SparseGPT(calibration_windows=12, damping=0.01, block_size=128, match_reference=True)
    pruned = prune(layer, pruner, PATTERNS[sparsity])
    assert float(((pruned != 0) == kept).float().mean()) >= 0.999
    assert error(layer, pruned) == pytest.approx(error(layer, expected), rel=0.001)


@pytest.mark.parametrize("sparsity", PATTERNS)
def test_sparsegpt_counts_exactly_at_the_official_error(layer, sparsity):
    expected, _ = reference(layer, "sparsegpt", sparsity)
    pruner = SparseGPT(calibration_windows=12, damping=0.01, block_size=128, match_reference=False)
    pruned = prune(layer, pruner, PATTERNS[sparsity])
    assert int((pruned == 0).sum()) == PATTERNS[sparsity].zeros(pruned.numel())
    assert error(layer, pruned) == pytest.approx(error(layer, expected), rel=0.01)


@pytest.mark.parametrize("sparsity", PATTERNS)
def test_alps_has_the_official_error(layer, sparsity):
    expected, _ = reference(layer, "alps", sparsity)
    pruned = prune(layer, METHODS["alps"], PATTERNS[sparsity])
    assert int((pruned == 0).sum()) == PATTERNS[sparsity].zeros(pruned.numel())
    assert error(layer, pruned) <= 1.01 * error(layer, expected)


@pytest.mark.parametrize("match", [False, True], ids=["gradual", "match_reference"])
@pytest.mark.parametrize("sparsity", PATTERNS)
def test_l_admm_has_the_official_error(layer, sparsity, match):
    expected, _ = reference(layer, "ladmm", sparsity)
    iterations, mask_iterations = (20, 15) if match else (30, 25)
    pruner = LAdmm(
        calibration_windows=12, damping=0.1, iterations=iterations, mask_iterations=mask_iterations,
        match_reference=match,
    )  # fmt: skip
    pruned = prune(layer, pruner, PATTERNS[sparsity])
    assert int((pruned == 0).sum()) == PATTERNS[sparsity].zeros(pruned.numel())
    assert error(layer, pruned) <= 1.01 * error(layer, expected)


@pytest.mark.parametrize("sparsity", PATTERNS)
@pytest.mark.parametrize("start", ["wanda", "sparsegpt", "alps"])
def test_exchanges_lower_the_error_of_the_official_outputs_and_keep_as_many(layer, start, sparsity):
    before, _ = reference(layer, start, sparsity)
    inputs = layer["X"].float()
    after, count = swap(before, layer["W"], inputs.t() @ inputs, PATTERNS[sparsity].group, Swaps())
    print(f"{start}, {sparsity}: {error(layer, before):.5f} → {error(layer, after):.5f} by {count:,} exchanges")
    assert error(layer, after) < error(layer, before)
    assert torch.equal((after != 0).sum(1), (before != 0).sum(1))
