"""Bytes of a training run, predicted without memory: the model is built and run on fake tensors.

Weights, moments and ADMM state are counted; activations are what autograd really saves in one forward pass. On several
ranks each holds its rows of everything, and whole what FSDP gathers for its use. Left out are dropout's masks, the
device's own context and the allocator's fragmentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from elsa.export.kind import auto_of
from elsa.model.weights import decoder_blocks, prunable_weights, without_head
from elsa.plan.experts import in_equal_parts
from elsa.train.budget import Training
from elsa.train.precision import Precision

_LOGIT_BYTES = 16  # bf16 logits and their gradient, their fp32 copy, log-softmax and its gradient
_MOMENT_BYTES = {"float32": 8.0, "8bit": 2 * (1 + 4 / 256)}
_GRAMS = 6  # matrices of inputs x inputs that a second-order method works on at once
_UPDATE_BYTES = 24  # of one tensor in its z/u update: fp32 target, score, copy for the selection, masks


@dataclass(frozen=True)
class Shape:
    """What a model's config says: parameters, and bytes that one step's forward pass keeps for the backward pass.

    `activations`: of all blocks; `largest_block`: of the one that keeps most; `boundary`: a block's input alone.
    `block`: parameters of the largest one; `outside`: of those in none (embedding, head, norms). `matrix`:
    entries of the largest prunable weight; `inputs`: of the layer with most.
    """

    parameters: int
    prunable: int
    largest: int
    blocks: int
    vocabulary: int
    activations: int
    largest_block: int
    boundary: int
    block: int
    outside: int
    matrix: int
    inputs: int


@dataclass(frozen=True)
class Need:
    """Bytes on one device by kind.

    `gathered`: parts of others that it holds to work with. `logits`: with the gradient of the head, which is the first.
    `wire`: what it takes in and sends out in a step, of which nothing stays.
    """

    weights: float
    moments: float
    state: float
    gathered: float
    gradients: float
    activations: float
    logits: float
    wire: float = 0.0

    @property
    def peak(self) -> float:
        """Activations and gradients trade places during the backward pass, so only the larger counts."""
        held = self.weights + self.moments + self.state + self.gathered
        return held + max(self.activations + self.logits, self.gradients)


def measure(
    config: PretrainedConfig,
    training: Training,
    weights: str,
    length: int,
    choose: Callable[[nn.Module], object] = lambda model: None,
) -> Shape:
    """Run one part of a step (batch_size / accumulation windows of `length` tokens) on fake tensors.

    `weights`: their dtype; fp32 ones are cast under autocast, and the casts are saved too. `choose`: says which of the
    model's weights are prunable.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = auto_of(config).from_config(config, dtype=getattr(torch, weights))
        choose(model)
        in_equal_parts(model)
        model.eval()  # some families draw random numbers in training mode, which fake tensors do not have
        blocks = decoder_blocks(model)
        saved, bounds = _Saved(model), []
        hooks = [block.register_forward_pre_hook(lambda module, args: bounds.append(saved.bytes)) for block in blocks]
        ids = torch.zeros(training.batch_size // training.accumulation, length, dtype=torch.long)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=training.autocast == "bfloat16")
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor), autocast:
            hidden = without_head(model)(input_ids=ids, use_cache=False).last_hidden_state
        for hook in hooks:
            hook.remove()
        bounds.append(saved.bytes)
        prunable = prunable_weights(model).values()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        of_blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
        return Shape(
            parameters=parameters,
            prunable=sum(each.numel for each in prunable),
            largest=max(parameter.numel() for parameter in model.parameters()),
            blocks=len(blocks),
            vocabulary=config.get_text_config(decoder=True).vocab_size,
            activations=saved.bytes,
            largest_block=max(after - before for before, after in pairwise(bounds)),
            boundary=hidden.numel() * hidden.element_size(),
            block=max(of_blocks),
            outside=parameters - sum(parameter.numel() for parameter in blocks.parameters()),
            matrix=max(each.numel for each in prunable),
            inputs=max(each.shape_OI[1] for each in prunable),
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
    """Bytes on each of `devices` ranks, over which weights, moments, ADMM state and gradients are spread evenly.

    `state`: bytes a prunable weight that the method keeps (`Method.state_bytes`).
    """
    weight = getattr(torch, precision.weights).itemsize
    parts = max(training.accumulation, devices)  # of a step; `shape` is that of batch_size / accumulation windows
    tokens = training.batch_size // parts * length
    activations = shape.activations
    if precision.activation_checkpointing:
        activations = shape.blocks * shape.boundary + shape.largest_block
    if training.hidden_distillation:
        activations += 2 * shape.blocks * shape.boundary  # the dense model's, and the difference
    logits = min(tokens, precision.loss_chunk or tokens) * shape.vocabulary * _LOGIT_BYTES
    gradients = (shape.largest if precision.gradient_release else shape.parameters) * weight
    update = shape.matrix * _UPDATE_BYTES if state > 1 else 0
    alone, distilled = devices == 1, training.distils
    whole = 0 if alone else max(shape.block, shape.outside) * weight  # a gradient before it is cut, and what is sent
    return Need(
        weights=_kept(shape, training, devices) * weight,
        moments=shape.parameters * _MOMENT_BYTES[precision.moments] / devices,
        state=shape.prunable * state / devices,
        gathered=0 if alone else (shape.outside + 2 * (1 + distilled) * shape.block) * weight,
        gradients=max(gradients / devices + 2 * whole, update / devices),
        activations=activations * training.accumulation / parts,
        logits=logits + shape.largest * weight,
        wire=0 if alone else _wire(shape, weight, parts // devices, devices, distilled),
    )


def _kept(shape: Shape, training: Training, devices: int) -> float:
    """Weights that a rank keeps: its rows, and those of the dense model that is distilled from, of which the part
    outside its blocks is whole on every rank.
    """
    own, dense = shape.parameters / devices, (shape.parameters - shape.outside) / devices + shape.outside
    return own + dense if training.distils else own


def bytes_a_weight(shape: Shape, training: Training, found: Need, devices: int) -> float:
    """Of a prunable weight over all ranks together, its gradient left out."""
    weight = found.weights / _kept(shape, training, devices)
    return weight + found.moments * devices / shape.parameters + found.state * devices / shape.prunable


def before_training(shape: Shape, weight: int, length: int, *, budget: bool) -> float:
    """Bytes on a device for a layer-wise method that prunes the model first, in weights of `weight` bytes.

    `shape`: of one window without autocast. `budget`: whether it places one budget by the gradients of the model's
    loss, which takes their squares and the activations of a window. Otherwise what a layer's inputs say is all there is
    beside the weights: a Gram matrix and its factors, fp32.
    """
    weights = shape.parameters * weight
    if not budget:
        return weights + _GRAMS * 4 * shape.inputs**2
    return weights + 4 * shape.prunable + shape.activations + length * shape.vocabulary * _LOGIT_BYTES


def _wire(shape: Shape, weight: int, parts: int, devices: int, distilled: bool) -> float:
    """Blocks are gathered for both passes, the rest for the first; gradients are sent once. All of it for each part."""
    blocks = shape.parameters - shape.outside
    gathered, sent = (2 + distilled) * blocks + shape.outside, shape.parameters
    return parts * (gathered + sent) * weight * (devices - 1) / devices


def advice(given: Need, fits: Callable[[Need], bool], changed: dict[str, Callable[[], Need]]) -> list[tuple[str, Need]]:
    """The config as given and, while nothing has fitted yet, each change in turn with its need."""
    tried = [("as given", given)]
    for change, its_need in changed.items():
        if fits(tried[-1][1]):
            break
        tried.append((change, its_need()))
    return tried
