"""Bytes of a training run, predicted without memory: the model is built and run on fake tensors.

Weights, moments and ADMM state are counted; activations are what autograd really saves in one forward pass. Left out
are dropout's masks, the device's own context and the allocator's fragmentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from elsa.model.weights import decoder_blocks, prunable_weights
from elsa.train.budget import Training
from elsa.train.precision import Precision

_LOGIT_BYTES = 16  # bf16 logits and their gradient, their fp32 copy, log-softmax and its gradient
_MOMENT_BYTES = {"float32": 8.0, "8bit": 2 * (1 + 4 / 256)}
_UPDATE_BYTES = 24  # of one tensor in its z/u update: fp32 target, score, copy for the selection, masks


@dataclass(frozen=True)
class Shape:
    """What a model's config says: parameters, and bytes that one step's forward pass keeps for the backward pass.

    `activations`: of all blocks; `largest_block`: of the one that keeps most; `boundary`: a block's input alone.
    """

    parameters: int
    prunable: int
    largest: int
    blocks: int
    vocabulary: int
    activations: int
    largest_block: int
    boundary: int


@dataclass(frozen=True)
class Need:
    """Bytes on one device by kind."""

    weights: float
    moments: float
    state: float
    gradients: float
    activations: float
    logits: float

    @property
    def peak(self) -> float:
        """Activations and gradients trade places during the backward pass, so only the larger counts."""
        return self.weights + self.moments + self.state + max(self.activations + self.logits, self.gradients)


def measure(config: PretrainedConfig, training: Training, weights: str, length: int) -> Shape:
    """Run one part of a step (batch_size / accumulation windows of `length` tokens) on fake tensors.

    `weights`: their dtype; fp32 ones are cast under autocast, and the casts are saved too.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, weights))
        model.eval()  # some families draw random numbers in training mode, which fake tensors do not have
        blocks = decoder_blocks(model)
        saved, bounds = _Saved(model), []
        hooks = [block.register_forward_pre_hook(lambda module, args: bounds.append(saved.bytes)) for block in blocks]
        ids = torch.zeros(training.batch_size // training.accumulation, length, dtype=torch.long)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=training.autocast == "bfloat16")
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor), autocast:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        for hook in hooks:
            hook.remove()
        bounds.append(saved.bytes)
        return Shape(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            prunable=sum(weight.numel for weight in prunable_weights(model).values()),
            largest=max(parameter.numel() for parameter in model.parameters()),
            blocks=len(blocks),
            vocabulary=config.vocab_size,
            activations=saved.bytes,
            largest_block=max(after - before for before, after in pairwise(bounds)),
            boundary=hidden.numel() * hidden.element_size(),
        )


class _Saved:
    """Counts the bytes of different storages that autograd saves, but for those of the parameters."""

    def __init__(self, model: nn.Module):
        self._seen = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._alive: list[torch.Tensor] = []  # so that no address is used twice
        self.bytes = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor


def need(shape: Shape, training: Training, precision: Precision, length: int, *, state: float, devices: int) -> Need:
    """Bytes on each of `devices` devices, if weights, moments, ADMM state and gradients are spread evenly over them.

    `state`: bytes a prunable weight that the method keeps (`Method.state_bytes`). The windows of a step are spread over
    the devices too.
    """
    weight = getattr(torch, precision.weights).itemsize
    tokens = training.batch_size // training.accumulation * length
    activations = shape.activations
    if precision.activation_checkpointing:
        activations = shape.blocks * shape.boundary + shape.largest_block
    logits = min(tokens, precision.loss_chunk or tokens) * shape.vocabulary * _LOGIT_BYTES
    gradients = (shape.largest if precision.gradient_release else shape.parameters) * weight
    update = shape.largest * _UPDATE_BYTES if state > 1 else 0
    share = 1 / min(devices, max(1, training.batch_size // training.accumulation))
    copies = 2 if training.distillation else 1  # the dense model too
    return Need(
        weights=copies * shape.parameters * weight / devices,
        moments=shape.parameters * _MOMENT_BYTES[precision.moments] / devices,
        state=shape.prunable * state / devices,
        gradients=max(gradients, update) / devices,
        activations=activations * share,
        logits=logits * (share if precision.loss_chunk is None else 1),
    )


def advice(given: Need, fits: Callable[[Need], bool], changed: dict[str, Callable[[], Need]]) -> list[tuple[str, Need]]:
    """The config as given and, while nothing has fitted yet, each change in turn with its need."""
    tried = [("as given", given)]
    for change, its_need in changed.items():
        if fits(tried[-1][1]):
            break
        tried.append((change, its_need()))
    return tried
