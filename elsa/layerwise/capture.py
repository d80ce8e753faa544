"""Run a model's blocks one by one, exactly as the model itself runs them.

Every block's own arguments are recorded during one real forward (Gemma's blocks get different masks), so nothing here
knows what an architecture passes. A replay is proven equal to the real forward on other tokens before it is used.

Shapes: N windows of L tokens, hidden states [batch, L, D].
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from elsa.data.scored import token_ids
from elsa.distributed.ranks import ONE, Ranks
from elsa.errors import UserError
from elsa.layerwise.activations import Activations
from elsa.track.progress import progress

_TOKENS_A_BATCH = 2048

FIRST = object()  # among a block's arguments: the inputs of block 0
Call = tuple[tuple[Any, ...], dict[str, Any]]  # a block's arguments besides its hidden states


class _Reached(Exception):  # noqa: N818 (a signal, not an error)
    """Block 0 has been reached: the rest of the forward is not needed."""


@dataclass
class BlockReplay:
    """Runs a model's blocks one by one, as the model itself runs them.

    Args:
        blocks: of the model.
        calls: each block's arguments besides its hidden states.
        hidden: the inputs of the next block to run, in batches.
        ranks: that share the windows; `hidden` are those of this one's.
        tokens: by weight, how many reached it where a router decides.
        first: the inputs of block 0, where others take them too (Zamba2); their places in `calls` hold `FIRST`.
    """

    blocks: nn.ModuleList
    calls: list[Call]
    hidden: Activations
    ranks: Ranks = ONE
    tokens: dict[str, int] = field(default_factory=dict)
    first: Activations | None = None

    def run(self, index: int, hidden: torch.Tensor, batch: int | None = None) -> torch.Tensor:
        """Output [batch, L, D] of block `index` for one batch of its inputs `hidden`.

        `batch`: its number, needed if there is a `first`.
        """
        args, kwargs = self.calls[index]
        if self.first is not None:
            assert batch is not None, "block 0's inputs are another in each batch"
            first = self.first[batch]
            args, kwargs = _replaced((args, kwargs), lambda given: first if given is FIRST else given)
        return tensor_of(self.blocks[index](hidden, *args, **kwargs))

    def run_through(self, index: int, last: int, hidden: torch.Tensor, batch: int) -> None:
        """Run the blocks from `index` to `last` on one batch of the first one's inputs."""
        for number in range(index, last + 1):
            hidden = self.run(number, hidden, batch)

    def holders(self, index: int, parameters: Mapping[str, nn.Parameter]) -> tuple[dict[str, list[nn.Module]], int]:
        """The modules with these parameters of block `index`, by name, and the last block that has one.

        Where blocks share parameters (Zamba2) those of later ones too, whether they share modules or not.
        """
        names, found = {id(parameter): name for name, parameter in parameters.items()}, dict[str, list[nn.Module]]()
        last = index
        for number, block in enumerate(self.blocks[index:], index):
            for module in block.modules():
                for name in [names[id(p)] for p in module.parameters(recurse=False) if id(p) in names]:
                    last = number
                    held = found.setdefault(name, [])
                    held += [module] * (module not in held)
        return found, last

    def outputs(self, index: int) -> Activations:
        """Outputs of block `index` for all batches, kept where its inputs are."""
        outputs = self.hidden.like()
        for batch, hidden in enumerate(self.hidden):
            outputs.append(self.run(index, hidden, batch))
        return outputs

    def propagate(self, index: int) -> None:
        """Replace the inputs of block `index` by its outputs, batch by batch."""
        for i, hidden in enumerate(self.hidden):
            self.hidden[i] = self.run(index, hidden, i)


@torch.no_grad()
def capture(
    model: nn.Module, blocks: nn.ModuleList, windows_NL: torch.Tensor, place: str = "auto", ranks: Ranks = ONE
) -> BlockReplay:
    """Collect block 0's inputs for all windows, in batches of equal size, and every block's other arguments.

    `place`: where they are kept, one of `elsa.layerwise.activations.PLACES`. `ranks`: that have others. Raises
    `UserError` if replaying the blocks does not give what the model gives.
    """
    device = next(model.parameters()).device
    ids_NL = token_ids(windows_NL)
    batches = [batch.to(device, torch.long) for batch in ids_NL.split(_batch_size(*ids_NL.shape))]
    calls, _ = _observe(model, blocks, batches[0])
    first = _first_input(model, blocks[0], batches[0])
    hidden = Activations(place, first, len(batches))
    hidden.append(first)
    for batch in progress(batches[1:], "embed", unit="batch"):
        hidden.append(_first_input(model, blocks[0], batch))
    replay = _with_first(BlockReplay(blocks, calls, hidden, ranks), first)
    ranks.all_or_none(lambda: _prove(model, replay, batches[-1]))
    return replay


def _with_first(replay: BlockReplay, first: torch.Tensor) -> BlockReplay:
    """With block 0's inputs kept, if blocks have got them beside their own. `first`: those of the first batch."""

    def marked(given: Any) -> Any:
        same = isinstance(given, torch.Tensor) and given.shape == first.shape and torch.equal(given, first)
        return FIRST if same else given

    calls = [_replaced(call, marked) for call in replay.calls]
    if not any(each is FIRST for args, kwargs in calls for each in (*args, *kwargs.values())):
        return replay
    kept = replay.hidden.like()
    for batch in replay.hidden:
        kept.append(batch.clone())
    return replace(replay, calls=calls, first=kept)


def _replaced(call: Call, change: Callable[[Any], Any]) -> Call:
    args, kwargs = call
    return tuple(map(change, args)), {key: change(value) for key, value in kwargs.items()}


def _batch_size(count: int, length: int) -> int:
    """The largest divisor of `count` with at most 2,048 tokens a batch: masks keep one shape."""
    most = max(1, _TOKENS_A_BATCH // length)
    return max(size for size in range(1, min(most, count) + 1) if count % size == 0)


def _observe(model: nn.Module, blocks: nn.ModuleList, ids: torch.Tensor) -> tuple[list[Call], torch.Tensor]:
    """One real forward: the arguments of every block but its hidden states, and the last block's output."""
    calls: list[Call] = []
    outputs: list[torch.Tensor] = []

    def record_call(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    hooks = [block.register_forward_pre_hook(record_call, with_kwargs=True) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(lambda block, args, output: outputs.append(tensor_of(output))))
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, outputs[0]


def _first_input(model: nn.Module, block: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    found: list[torch.Tensor] = []

    def stop(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    with block.register_forward_pre_hook(stop, with_kwargs=True), suppress(_Reached):
        model(input_ids=ids, use_cache=False)
    return found[0]


def _prove(model: nn.Module, replay: BlockReplay, ids: torch.Tensor) -> None:
    _, expected = _observe(model, replay.blocks, ids)
    hidden = replay.hidden[len(replay.hidden) - 1]
    for index in range(len(replay.blocks)):
        hidden = replay.run(index, hidden, len(replay.hidden) - 1)
    difference = float((hidden - expected).abs().max() / expected.abs().max())
    if not difference < 1e-3:
        raise UserError(
            f"model: running its {len(replay.blocks)} blocks one by one differs from the model itself by "
            f"{difference:.1e} of the largest activation, so layer-wise methods cannot prune it; method=elsa can"
        )


def tensor_of(output: torch.Tensor | tuple[Any, ...]) -> torch.Tensor:
    """The hidden states in what a module gives, which is a tuple where it gives more."""
    return output[0] if isinstance(output, tuple) else output


def relative_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """‖output − target‖² / ‖target‖², fp32: the same scale in every block."""
    return (output - target).float().square().sum() / target.float().square().sum()
