import dataclasses
import os

import pytest
import torch

from elsa.layerwise.activations import Activations
from tests.conftest import random_model
from tests.method.methods import METHODS
from tests.method.test_contract import PATTERNS, task


@pytest.mark.parametrize("place", ["device", "cpu", "disk"])
def test_what_is_put_in_comes_out(place):
    batches = torch.randn(3, 2, 4, 5)
    kept = Activations(place, batches[0], 3)
    for batch in batches:
        kept.append(batch)
    assert torch.equal(torch.stack(list(kept)), batches)
    kept[1] = torch.zeros(2, 4, 5)
    other = kept.like()
    other.append(kept[1])
    assert (len(kept), len(other), other.place) == (3, 1, place)
    assert not other[0].any()
    assert torch.equal(kept[2], batches[2])


def test_auto_goes_to_disk_when_memory_is_short(monkeypatch):
    batch = torch.zeros(2, 8, 16)
    assert Activations("auto", batch, 100).place == "device"
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 100 if name == "SC_AVPHYS_PAGES" else real(name))
    assert Activations("auto", batch, 10**6).place == "disk"


@pytest.mark.parametrize("name", ["sparsegpt", "safe", "sparsellm"])
def test_where_activations_are_kept_changes_no_weight(windows, name):
    results = []
    for place in ("device", "disk"):
        model = random_model("llama")
        given, _ = task(windows, PATTERNS["70 %"])
        METHODS[name].apply(model, dataclasses.replace(given, activations=place))
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
