"""Masked reconstruction: train what a mask keeps on the dense outputs, one sub-block at a time (arXiv:2510.14444)."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from elsa.errors import require
from elsa.layerwise.activations import Activations
from elsa.layerwise.capture import BlockReplay, Call, relative_error, tensor_of
from elsa.layerwise.driver import Patterns
from elsa.method.layerwise import refuse_shared
from elsa.method.refining import Refiner, Refining
from elsa.model.weights import PrunableWeight, entries_of, parameters_of


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Refining):
    """Minimise ‖f(x) − f_dense(x_dense)‖² for each child f of a block that holds pruned weights (attention, MLP).

    arXiv:2510.14444. x is what reaches it in the pruned model and x_dense in the dense one, so that what was lost
    before is made good too. Adam on the kept entries, its rate falling linearly to 0. The paper's settings were not at
    hand: the defaults were chosen here.

    Args:
        epochs: passes over the calibration windows.
        learning_rate: Adam's at the start.
    """

    epochs: int = 8
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive, for example 1e-3")

    def check_model(self, model: nn.Module) -> None:
        super().check_model(model)
        refuse_shared(self, model)

    def _refiner(self, dense: Mapping[str, torch.Tensor]) -> "Reconstruction":
        return Reconstruction(self, dense)


class Reconstruction(Refiner):
    """Of one model, whose dense hidden states go from block to block beside those of the pruned one."""

    def __init__(self, method: Reconstruct, dense: Mapping[str, torch.Tensor]):
        super().__init__(dense)
        self._method = method
        self._dense_hidden: Activations | None = None
        self._errors: dict[str, list[float]] = {"before": [], "after": []}

    def prune_block(
        self, replay: BlockReplay | None, index: int, layers: dict[str, PrunableWeight], patterns: Patterns
    ) -> None:
        assert replay is not None, "it needs inputs"
        hidden = self._dense_hidden or replay.hidden  # before block 0 nothing is pruned
        dense = replace(replay, hidden=hidden)
        parts = _parts(replay.blocks[index], layers)
        with self._dense_weights(layers):
            goals, self._dense_hidden = _outputs(dense, index, {name: part for name, (part, _) in parts.items()})
        for name, (part, weights) in parts.items():
            self._train(part, weights, *_inputs(replay, index, part), goals[name])

    @contextmanager
    def _dense_weights(self, layers: Mapping[str, PrunableWeight]) -> Iterator[None]:
        """Inside, the block has its dense weights."""
        sparse = {name: weight.value_OI.clone() for name, weight in layers.items()}
        for name, weight in layers.items():
            weight.write(self._dense[name])
        yield
        for name, weight in layers.items():
            weight.write(sparse[name])

    def _train(
        self,
        part: nn.Module,
        weights: Mapping[str, PrunableWeight],
        inputs: Activations,
        call: Call,
        goals: Activations,
    ) -> None:
        kept, named = entries_of(weights), parameters_of(weights)
        for weight in weights.values():
            weight.as_OI(kept[weight.parameter_name]).logical_and_(weight.value_OI != 0)
        parameters = list(named.values())
        optimizer = torch.optim.Adam(parameters, lr=self._method.learning_rate, fused=True)
        steps = self._method.epochs * len(inputs)
        self._errors["before"].append(_error(part, inputs, call, goals))
        for step in range(steps):
            batch = step % len(inputs)
            optimizer.param_groups[0]["lr"] = self._method.learning_rate * (1 - step / steps)
            with torch.enable_grad():
                loss = relative_error(tensor_of(part(inputs[batch], *call[0], **call[1])), goals[batch])
                gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient, its_kept in zip(parameters, gradients, kept.values(), strict=True):
                parameter.grad = gradient.contiguous().masked_fill_(~its_kept, 0)
            optimizer.step()
        optimizer.zero_grad()
        self._errors["after"].append(_error(part, inputs, call, goals))

    def facts(self) -> dict[str, Any]:
        return {"sub_block_error": {name: sum(each) / len(each) for name, each in self._errors.items()}}


def _parts(
    block: nn.Module, layers: Mapping[str, PrunableWeight]
) -> dict[str, tuple[nn.Module, dict[str, PrunableWeight]]]:
    """The children of a block that hold prunable weights, by name, in the order in which they are."""
    parts = {}
    for name, child in block.named_children():
        inside = {id(module) for module in child.modules()}
        if held := {name: weight for name, weight in layers.items() if id(weight.module) in inside}:
            parts[name] = (child, held)
    return parts


def _inputs(replay: BlockReplay, index: int, part: nn.Module) -> tuple[Activations, Call]:
    """What reaches a child of block `index` over all batches: hidden states, and its other arguments."""
    kept, calls = replay.hidden.like(), list[Call]()

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        kept.append(hidden)
        calls.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    with part.register_forward_pre_hook(keep, with_kwargs=True):
        for batch, hidden in enumerate(replay.hidden):
            replay.run(index, hidden, batch)
    return kept, calls[0]


def _outputs(
    replay: BlockReplay, index: int, parts: Mapping[str, nn.Module]
) -> tuple[dict[str, Activations], Activations]:
    """What children of block `index`, by name, and the block itself give over all batches."""
    kept = {name: replay.hidden.like() for name in parts}
    with ExitStack() as stack:
        for name, part in parts.items():
            hook = part.register_forward_hook(lambda _, args, output, name=name: kept[name].append(tensor_of(output)))
            stack.enter_context(hook)
        return kept, replay.outputs(index)


@torch.no_grad()
def _error(part: nn.Module, inputs: Activations, call: Call, goals: Activations) -> float:
    """The mean over batches."""
    errors = [
        relative_error(tensor_of(part(x, *call[0], **call[1])), goal) for x, goal in zip(inputs, goals, strict=True)
    ]
    return float(torch.stack(errors).mean())
