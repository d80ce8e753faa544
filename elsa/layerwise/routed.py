"""What reaches experts whose matrices lie in one parameter: the tokens that the router sends to each.

Such a module computes with slices of its parameters, out of sight of hooks, and so do some mixers with the weights of
linear layers that they do not call (Jamba's `dt_proj`). So the products themselves are seen, where
torch is called, whatever the module is; transformers' own modules compute expert by expert meanwhile ("eager").

Shapes: T tokens, I inputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from elsa.errors import UserError
from elsa.layerwise.capture import BlockReplay
from elsa.model.weights import PrunableWeight

REFUSE, ALL_TOKENS = "refuse", "all_tokens"
FEW_TOKENS = (REFUSE, ALL_TOKENS)
_PRODUCTS = (F.linear, torch.matmul, torch.mm, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__)

Observe = Callable[[str, torch.Tensor], None]  # a weight's name, and inputs [T, I]


class _Products(TorchFunctionMode):
    """Inside, `observe` gets the inputs of every product with one of these matrices.

    A row of zeros in a product with all experts at once is a token that was not sent.
    """

    def __init__(self, weights: Iterable[PrunableWeight], observe: Observe):
        super().__init__()
        self._observe = observe
        self._held: dict[int, dict[int | None, PrunableWeight]] = {}  # by id of the parameter, and number of the expert
        for weight in weights:
            self._held.setdefault(id(weight.parameter), {})[weight.expert] = weight
        self._taken: dict[int, tuple[torch.Tensor, PrunableWeight]] = {}  # by id, alive so that it stays its own

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.Tensor.__getitem__:
            weight = self._held.get(id(args[0]), {}).get(_number(args[1]))
            if weight is not None:
                self._taken[id(result)] = (result, weight)
        elif function in _PRODUCTS and len(args) > 1:
            self._see(args[0], args[1], transposed=function is not F.linear)
            if function is not F.linear and args[1].dim() > 1:  # the weight may come first
                self._see(args[1].mT, args[0], transposed=False)
        return result

    def _see(self, inputs: torch.Tensor, matrix: torch.Tensor, *, transposed: bool) -> None:
        whole = self._held.get(id(matrix), {}).get(None)
        if whole is not None or id(matrix) in self._taken:
            weight = self._taken[id(matrix)][1] if whole is None else whole
            self._hand(weight, inputs.flatten(0, -2), transposed)
        elif matrix.dim() == 3:
            for expert, weight in self._held.get(id(matrix), {}).items():
                assert expert is not None, "it is an expert's"
                rows = inputs[expert]
                self._hand(weight, rows[(rows != 0).any(1)], transposed)

    def _hand(self, weight: PrunableWeight, inputs_TI: torch.Tensor, transposed: bool) -> None:
        if transposed != weight.transposed:
            raise UserError(f"model: {weight.name} multiplies its inputs from the other side than its shape says")
        self._observe(weight.name, inputs_TI)


def observing(run: Callable[[], object], weights: Mapping[str, PrunableWeight], observe: Observe) -> None:
    """Run a block, and let `observe` see what reaches each of these matrices, where it is used."""
    if not weights:
        run()
        return
    with _one_by_one(weights.values()), _Products(weights.values(), observe):
        run()


def observe_all_tokens(
    replay: BlockReplay, index: int, weights: Mapping[str, PrunableWeight], observe: Observe
) -> None:
    """Let `observe` see what each of these experts' matrices would get if its router sent it all tokens.

    Raises `UserError` if the module is not told by its arguments where tokens go.
    """
    experts: dict[int, tuple[nn.Module, dict[int, list[PrunableWeight]]]] = {}
    for weight in weights.values():
        assert weight.expert is not None, "it is an expert's"
        experts.setdefault(id(weight.module), (weight.module, {}))[1].setdefault(weight.expert, []).append(weight)
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []
    hooks = [
        module.register_forward_pre_hook(lambda *call: calls.append(call), with_kwargs=True)
        for module, _ in experts.values()
    ]
    try:
        for batch, hidden in enumerate(replay.hidden):
            replay.run(index, hidden, batch)
            for module, args, kwargs in calls:
                for expert, its in experts[id(module)][1].items():
                    with _one_by_one(its), _Products(its, observe):
                        module.forward(*_sent_to(expert, its[0], args), **kwargs)
            calls.clear()
    finally:
        for hook in hooks:
            hook.remove()


def _sent_to(expert: int, weight: PrunableWeight, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a module of experts with all tokens sent to one: hidden states, and whom each token goes to."""
    chosen = [each for each in args if isinstance(each, torch.Tensor) and not each.is_floating_point()]
    if len(chosen) != 1 or chosen[0].dim() != 2:
        raise UserError(
            f"method.few_tokens=all_tokens: the module of {weight.name} is not told where tokens go, so it cannot be "
            "sent all; raise method.calibration_windows"
        )

    def changed(given: Any) -> Any:
        if given is chosen[0]:
            return torch.full_like(given[:, :1], expert)
        is_share = isinstance(given, torch.Tensor) and given.shape == chosen[0].shape
        return torch.ones_like(given[:, :1]) if is_share else given

    return tuple(map(changed, args))


@contextmanager
def _one_by_one(weights: Iterable[PrunableWeight]) -> Iterator[None]:
    """Inside, transformers computes expert by expert where it would do so with all of them at once."""
    configs = {id(config): config for weight in weights if (config := _config(weight.module)) is not None}
    before = {key: config._experts_implementation for key, config in configs.items()}
    for config in configs.values():
        config._experts_implementation = "eager"
    try:
        yield
    finally:
        for key, config in configs.items():
            config._experts_implementation = before[key]


def _config(module: nn.Module) -> Any:
    """What says how a module computes; None if nothing does."""
    config = getattr(module, "config", None)
    return config if hasattr(config, "_experts_implementation") else None


def _number(index: Any) -> int | None:
    """That of a single expert."""
    if isinstance(index, torch.Tensor) and index.dim() == 0:
        return int(index)
    return index if isinstance(index, int) else None
