"""What a training run is measured by now and then: the loss of its weights, and of their sparse copy, on one batch.

Shapes: N windows of L tokens (`batch_NL`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from elsa.model.weights import PrunableWeight
from elsa.train.loss import next_token_loss


def due(step: int, every: int, interval: int) -> bool:
    """Whether `step`, a multiple of `interval`, is the first at or after a multiple of `every` (0: never)."""
    return every > 0 and step % interval == 0 and step // every > (step - interval) // every


@torch.no_grad()
def loss_on(model: nn.Module, batch_NL: torch.Tensor, parts: int, autocast: AbstractContextManager[object]) -> float:
    """Cross-entropy of the batch, in `parts`, without dropout: it draws no random numbers and leaves no trace."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    with autocast:
        losses = [next_token_loss(model, part.to(device, torch.long)).float() for part in batch_NL.chunk(parts)]
    model.train(was_training)
    return float(torch.stack(losses).mean())


@contextmanager
def holding(weight: PrunableWeight, read_OI: Callable[[], torch.Tensor]) -> Iterator[None]:
    """Inside, the layer computes with `read_OI()` in place of its weight, made when it is called and dropped after."""
    own: list[torch.Tensor] = []

    def take(*_: object) -> None:
        own.append(weight.parameter.data)
        weight.parameter.data = weight.as_OI(read_OI().to(weight.parameter.dtype))

    def give_back(*_: object) -> None:
        weight.parameter.data = own.pop()

    hooks = [weight.module.register_forward_pre_hook(take)]
    hooks.append(weight.module.register_forward_hook(give_back, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
