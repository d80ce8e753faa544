"""Gradients that are taken as the backward pass makes them, so that no two need to exist at once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn


@contextmanager
def releasing(parameters: Mapping[str, nn.Parameter], take: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Inside, `take(name, gradient)` gets each gradient as soon as a backward pass has made it; then it is dropped.

    `parameters`: by name. The gradient has its parameter's shape, and is `parameter.grad` while `take` runs.
    """

    def release(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None, "a backward pass has just made it"
        take(name, parameter.grad)
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(partial(release, name)) for name, p in parameters.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
