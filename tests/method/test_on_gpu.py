"""Every method on a GPU: a real one with `--device cuda`, else a pretended one, where bits are those of the CPU."""

import itertools
from dataclasses import replace

import pytest
import torch

from elsa.admm.penalty import Auto, Constant
from elsa.checkpoint.resume import RunCheckpoints
from elsa.errors import Stopped
from elsa.evaluation.perplexity import mean_loss
from elsa.method.base import Task
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from elsa.train.train import teacher_of
from tests.conftest import random_model
from tests.method.methods import METHODS, PRECISION
from tests.method.methods import TRAINING as ITS_TRAINING

TRAINING = replace(ITS_TRAINING, autocast="none")
UNSTRUCTURED = Pattern(pattern="unstructured", ratio=0.7)
PATTERNS = {
    "70 %": UNSTRUCTURED,
    "2:4": Pattern(pattern="2:4", ratio=None),
    "global": replace(UNSTRUCTURED, allocation="global"),
}
TRAINED = ("elsa", "elsa_plus", "finetuned")


def pruned(method, windows, device, pattern=UNSTRUCTURED, **task):
    model = random_model("llama").to(device)
    model.set_attn_implementation("eager")  # fused attention is another algorithm on each device
    given = {"training": TRAINING, "precision": PRECISION, "penalty": Constant(value=0.1)} | task
    method.apply(model, Task(pattern=pattern, windows=lambda count: windows[:count], **given))
    return model


def on_cpu(model):
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def assert_same(found, expected, gpu):
    """The same bits where the GPU is pretended; on a real one the same zeros but for a few near the border."""
    wanted = on_cpu(expected)
    for name, tensor in on_cpu(found).items():
        if gpu.exact:
            assert torch.equal(tensor, wanted[name]), name
        else:
            assert ((tensor == 0) == (wanted[name] == 0)).float().mean() > 0.98, name


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
@pytest.mark.parametrize("name", METHODS)
def test_a_method_prunes_on_the_gpu_as_on_the_cpu(windows, gpu, name, pattern):
    expected = pruned(METHODS[name], windows, "cpu", pattern)
    model = pruned(METHODS[name], windows, gpu.device, pattern)
    assert all(parameter.device.type == "cuda" for parameter in model.parameters())
    assert_same(model, expected, gpu)
    assert mean_loss(model, windows) == pytest.approx(mean_loss(expected, windows), rel=1e-6 if gpu.exact else 1e-2)


PRECISIONS = {
    "float32": PRECISION,
    "low": replace(PRECISION, state="float8", gradient_release=True, loss_chunk=8, activation_checkpointing=True),
    "paper": replace(PRECISION, state="float8", dual="bfloat16"),
}


PENALTIES = {"constant": Constant(value=0.1), "auto": Auto()}


@pytest.mark.parametrize(
    ("precision", "penalty"),
    [
        pytest.param(*each, marks=() if each in {("low", "auto"), ("paper", "constant")} else pytest.mark.slow)
        for each in itertools.product(PRECISIONS, PENALTIES)
    ],
)
def test_every_precision_and_penalty_trains_there(windows, gpu, precision, penalty):
    training = replace(TRAINING, distillation=0.5, hidden_distillation=1.0)
    given = {"training": training, "probe_every": 2}
    given |= {"precision": PRECISIONS[precision], "penalty": PENALTIES[penalty]}
    expected = pruned(METHODS["elsa"], windows, "cpu", **given)
    assert_same(pruned(METHODS["elsa"], windows, gpu.device, **given), expected, gpu)


class _StopsAt(RunCheckpoints):
    """Saves after every step; after the given one the run is interrupted."""

    def __init__(self, folder, step):
        super().__init__(folder, 0, 2, dict)
        self._step = step

    def save(self, step, state):
        super().save(step, state)
        if step == self._step:
            raise Stopped(15, "")


_QUICK = {("elsa", "low", 4), ("elsa_plus", "float32", 1), ("finetuned", "paper", 4)}  # each value once


@pytest.mark.parametrize(
    ("name", "precision", "stop"),
    [
        pytest.param(*each, marks=() if each in _QUICK else pytest.mark.slow)
        for each in itertools.product(TRAINED, PRECISIONS, (1, 4))
    ],
)
def test_a_run_that_goes_on_there_is_the_same_run(tmp_path, windows, gpu, name, precision, stop):
    given = {"precision": PRECISIONS[precision], "penalty": Auto(), "training": TRAINING}
    whole = pruned(METHODS[name], windows, gpu.device, **given)
    with pytest.raises(Stopped):
        pruned(METHODS[name], windows, gpu.device, checkpoints=_StopsAt(tmp_path, stop), **given)
    resumed = pruned(METHODS[name], windows, gpu.device, checkpoints=_StopsAt(tmp_path, None), **given)
    found, wanted = on_cpu(resumed), on_cpu(whole)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in found.items())
    assert prunable_weights(resumed)


def test_the_teacher_leaves_the_device_to_what_comes_before_the_training(windows, gpu):
    model = random_model("llama").to(gpu.device)
    training = replace(TRAINING, distillation=0.5, hidden_distillation=1.0)
    teacher = teacher_of(model, Task(pattern=UNSTRUCTURED, windows=lambda count: windows[:count], training=training))
    assert {parameter.device.type for parameter in teacher.parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
