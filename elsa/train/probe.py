"""What a training run is measured by now and then: the loss of its weights, and of their sparse copy, on one batch.

Shapes: N windows of L tokens (`parts_NL`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from elsa.model.weights import PrunableWeight
from elsa.train.loss import Call, evaluating, next_token_loss


def due(step: int, every: int, interval: int) -> bool:
    """Whether `step`, a multiple of `interval`, is the first at or after a multiple of `every` (0: never)."""
    return every > 0 and step % interval == 0 and step // every > (step - interval) // every


@torch.no_grad()
def losses_on(
    model: nn.Module, call: Call, parts_NL: Sequence[torch.Tensor], autocast: AbstractContextManager[object]
) -> torch.Tensor:
    """Cross-entropy of each part of a batch, without dropout: it draws no random numbers and leaves no trace."""
    with evaluating(model), autocast:
        losses = [call(next_token_loss, part).float() for part in parts_NL]
    return torch.stack(losses)


@contextmanager
def holding(weight: PrunableWeight, read_OI: Callable[[], torch.Tensor]) -> Iterator[None]:
    """Inside, the layer computes with `read_OI()` in place of its weight, made when it is called and dropped after.

    The parts of a weight that is spread over ranks are put together before the layer is called, so they are replaced.
    """
    if weight.is_spread:
        kept = weight.value_OI.clone()
        weight.write(read_OI())
        try:
            yield
        finally:
            weight.write(kept)
        return
    own: list[torch.Tensor] = []

    def take(*_: object) -> None:
        if weight.expert is not None:  # the parameter holds others too
            own.append(weight.value_OI.clone())
            weight.write(read_OI())
            return
        own.append(weight.parameter.data)
        weight.parameter.data = weight.as_OI(read_OI().to(weight.parameter.dtype))

    def give_back(*_: object) -> None:
        if weight.expert is not None:
            weight.write(own.pop())
            return
        weight.parameter.data = own.pop()

    hooks = [weight.module.register_forward_pre_hook(take)]
    hooks.append(weight.module.register_forward_hook(give_back, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
