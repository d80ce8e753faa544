"""Prune block after block: statistics of the inputs, prune every linear layer, run the pruned block, go on.

A layer-wise pruner is three or four verbs and no loop. Layers that get the same input (q, k and v; gate and up) are
recognised by the identity of the tensor, and share one statistic and whatever is computed from it. An expert's is that
of the tokens that its router sends to it.

Shapes: T tokens, O outputs and I inputs of a linear layer.
"""

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from elsa.distributed.ranks import ONE, Ranks
from elsa.errors import UserError
from elsa.layerwise.capture import BlockReplay, capture
from elsa.layerwise.routed import REFUSE, observe_all_tokens, observing
from elsa.layerwise.statistics import FEWEST_TOKENS
from elsa.model.weights import PrunableWeight, decoder_blocks
from elsa.sparsity.pattern import Pattern
from elsa.track.progress import progress

_NAMED = 3  # experts in a line
_log = logging.getLogger(__name__)

Patterns = Mapping[str, Pattern]  # of every prunable weight by name


class BlockPruner(ABC):
    """How one method prunes a block, given what flows into it. The driver owns everything else."""

    needs_inputs: ClassVar[bool] = True
    additive: ClassVar[bool] = False  # whether statistics of different windows can be added, so that ranks share them
    few_tokens: str = REFUSE  # what becomes of an expert that too few tokens reach (`elsa.layerwise.routed`)

    @abstractmethod
    def prune_block(
        self, replay: BlockReplay | None, index: int, layers: dict[str, PrunableWeight], patterns: Patterns
    ) -> None:
        """Prune the weights of block `index` in place.

        Args:
            replay: runs the block on what flows into it; None if the method needs no inputs.
            index: of the block.
            layers: its prunable weights by name; none where all are left out.
            patterns: of every prunable weight by name.
        """


class Statistics(Protocol):
    """What is collected of a layer's inputs."""

    def init_statistics(self, weight_OI: torch.Tensor) -> Any:
        """An empty statistic of a layer's inputs."""

    def update_statistics(self, statistics: Any, inputs_TI: torch.Tensor) -> None:
        """Add fp32 inputs to the statistic, in place."""

    def fewest_tokens(self, inputs: int) -> int:
        """How many tokens must reach an expert's matrix of so many inputs for the statistic to mean something."""


class LayerPruner(BlockPruner):
    """A method that prunes layer by layer: three or four verbs.

    The statistic may be anything that can be added to in place: a tensor, or a dict, list, tuple or dataclass of them.
    Class attributes: `needs_inputs = False` leaves `prune` alone, with None for `prepared`; `additive = True` says that
    statistics of different windows can be added, so that ranks share them.
    """

    def init_statistics(self, weight_OI: torch.Tensor) -> Any:
        """An empty statistic of a layer's inputs. `weight_OI`: the dense weight."""
        raise AssertionError(f"{type(self).__name__} needs no inputs")

    def update_statistics(self, statistics: Any, inputs_TI: torch.Tensor) -> None:
        """Add `inputs_TI`, fp32, of T tokens to `statistics`, in place."""
        raise AssertionError(f"{type(self).__name__} needs no inputs")

    def fewest_tokens(self, inputs: int) -> int:
        """How many tokens must reach an expert's matrix of so many `inputs` for the statistic to mean something."""
        return FEWEST_TOKENS

    def prepare(self, statistics: Any) -> Any:
        """What all layers with the same inputs share, computed once; by default `statistics` itself."""
        return statistics

    @abstractmethod
    def prune(self, weight_OI: torch.Tensor, prepared: Any, pattern: Pattern) -> torch.Tensor:
        """The pruned weight, fp32 [O, I].

        Args:
            weight_OI: the dense weight, fp32.
            prepared: what `prepare` has made of the inputs' statistic; None if the method needs no inputs.
            pattern: of this weight: `pattern.mask(score_OI)` says what is kept, `pattern.mask_rows` by row.

        Raises:
            torch.linalg.LinAlgError: where a factorisation fails; the driver names the layer.
        """

    def prune_block(
        self, replay: BlockReplay | None, index: int, layers: dict[str, PrunableWeight], patterns: Patterns
    ) -> None:
        if replay is None:
            prune_group(layers, None, self, patterns)
            return
        groups, ranks = collect(replay, index, layers, self, self.few_tokens), replay.ranks

        def prune_own() -> None:
            for number in ranks.share_of(len(groups)):
                names, statistics = groups[number]
                prune_group({name: layers[name] for name in names}, statistics, self, patterns)

        ranks.all_or_none(prune_own)
        for number, (names, _) in enumerate(groups):
            for name in names if ranks.size > 1 else ():
                layers[name].write(ranks.copy_(layers[name].value_OI.contiguous(), number % ranks.size))


@torch.no_grad()
def prune_blocks(
    model: nn.Module,
    weights: list[dict[str, PrunableWeight]],
    pruner: BlockPruner,
    patterns: Patterns,
    windows_NL: torch.Tensor | None,
    place: str = "auto",
    ranks: Ranks = ONE,
) -> dict[str, int]:
    """Prune block after block in place: statistics of the inputs, prune, run the pruned block, go on.

    Args:
        model: in whose blocks the weights are.
        weights: of each block, by name.
        pruner: the method.
        patterns: of every prunable weight by name.
        windows_NL: calibration tokens; None if no inputs are needed.
        place: where a block's inputs are kept, see `elsa.layerwise.activations`.
        ranks: that share the windows and the layers of a block, each with all of the model; for an `additive` pruner.

    Returns:
        How many tokens reached each expert's matrix, by name.

    Raises:
        UserError: naming the layer if a factorisation fails, if its weights or inputs are not finite, or if no token
            reaches it.
    """
    model.eval()
    blocks = decoder_blocks(model)
    replay = None
    if pruner.needs_inputs:
        assert windows_NL is not None, "a pruner that looks at inputs gets windows"
        own = windows_NL if ranks.size == 1 else windows_NL[list(ranks.share_of(len(windows_NL)))]
        replay = capture(model, blocks, own, place, ranks)
    for index in progress(range(len(blocks)), "prune", unit="block"):
        pruner.prune_block(replay, index, weights[index], patterns)
        if replay is not None and index + 1 < len(blocks):
            replay.propagate(index)
    return {} if replay is None else replay.tokens


def prune_group(layers: dict[str, PrunableWeight], statistics: Any, pruner: LayerPruner, patterns: Patterns) -> None:
    """Prune layers that share their inputs, and so the statistic (None: the pruner needs none), in place."""
    for name, weight in layers.items():
        _refuse_not_finite(weight.value_OI, f"the weights of {name}")
    try:
        prepared = None if statistics is None else pruner.prepare(statistics)
        for name, weight in layers.items():
            weight.write(pruner.prune(weight.value_OI.float(), prepared, patterns[name]))
    except torch.linalg.LinAlgError as error:
        raise UserError(
            f"method.damping: the Gram matrix of {next(iter(layers))} cannot be factorised ({error}); raise the "
            "damping or use more calibration windows"
        ) from error


def collect(
    replay: BlockReplay,
    index: int,
    layers: dict[str, PrunableWeight],
    pruner: Statistics,
    few_tokens: str = REFUSE,
) -> list[tuple[list[str], Any]]:
    """Run one block over all batches and gather statistics of its layers' inputs, those of the windows of all ranks.

    Of a layer that later blocks hold too, those of all its places: the blocks between run as they are.

    Args:
        replay: runs the block.
        index: of the block.
        layers: its prunable weights by name.
        pruner: how a statistic is made.
        few_tokens: one of `elsa.layerwise.routed.FEW_TOKENS`.

    Returns:
        A list of (names of layers with the same input, their statistic).
    """
    holders, last = replay.holders(index, {name: weight.parameter for name, weight in layers.items()})
    experts = {name: weight for name, weight in layers.items() if weight.expert is not None}
    groups = {name: [name] for name in experts}  # the first layer to see an input → all layers that see it
    statistics: dict[str, Any] = {name: pruner.init_statistics(weight.value_OI) for name, weight in experts.items()}
    tokens: dict[str, int] = {}
    seen: list[tuple[torch.Tensor, str]] = []  # new inputs of a batch, alive so that identity means equality
    placed = set(experts)

    def observe(name: str, inputs: torch.Tensor) -> None:
        if name not in placed:
            alike = () if last > index else seen  # layers with one input in this block may have two in the next
            leader = next((other for tensor, other in alike if tensor is inputs), name)
            groups.setdefault(leader, []).append(name)
            placed.add(name)
            seen.append((inputs, leader))
            if leader == name:
                statistics[name] = pruner.init_statistics(layers[name].value_OI)
        if name in groups:
            inputs_TI = inputs.flatten(0, -2).float()
            tokens[name] = tokens.get(name, 0) + len(inputs_TI)
            pruner.update_statistics(statistics[name], inputs_TI)

    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: observe(name, args[0]))
        for name in layers
        if name not in experts
        for module in holders[name]
    ]
    try:
        for batch, hidden in enumerate(replay.hidden):
            observing(partial(replay.run_through, index, last, hidden, batch), experts, observe)
            seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    uncalled = {name: weight for name, weight in layers.items() if name not in placed}
    for batch, hidden in enumerate(replay.hidden) if uncalled else ():
        observing(partial(replay.run_through, index, last, hidden, batch), uncalled, observe)
        seen.clear()
    few = {}
    if experts:
        sent = _sum_of(replay.ranks, tokens)
        replay.tokens |= {name: sent.get(name, 0) for name in experts}
        few = _few(experts, replay.tokens, pruner, few_tokens)
        statistics |= {name: pruner.init_statistics(weight.value_OI) for name, weight in few.items()}
        replay.ranks.all_or_none(lambda: observe_all_tokens(replay, index, few, observe))
    tokens = _over_ranks(replay.ranks, groups, statistics, tokens)
    reached = {name for leader, names in groups.items() if tokens[leader] for name in names}
    for name in layers:
        if name not in reached:
            raise UserError(
                f"method.calibration_windows: no calibration token reaches {name}, so nothing says which of its "
                "weights matter; use more windows, or leave it out with model.exclude"
            )
    for leader, statistic in statistics.items():
        _refuse_not_finite(statistic, f"the inputs of {leader}")
    return [(names, statistics[leader]) for leader, names in groups.items()]


def _sum_of(ranks: Ranks, tokens: dict[str, int]) -> dict[str, int]:
    """The tokens of all ranks."""
    found = ranks.gather(tokens)
    return {name: sum(theirs.get(name, 0) for theirs in found) for name in set().union(*found)}


def _few(
    experts: Mapping[str, PrunableWeight], tokens: Mapping[str, int], pruner: Statistics, few_tokens: str
) -> dict[str, PrunableWeight]:
    """The experts' matrices that too few tokens reach. Raises `UserError` with their names if that is refused."""
    _log.info(_table(experts, tokens))
    fewest = {name: pruner.fewest_tokens(weight.shape_OI[1]) for name, weight in experts.items()}
    found = {name: weight for name, weight in experts.items() if tokens.get(name, 0) < fewest[name]}
    if not found:
        return {}
    said = [f"{tokens.get(name, 0)} reach {name}, which takes {fewest[name]}" for name in list(found)[:_NAMED]]
    others = f", and {len(found) - _NAMED} others" if len(found) > _NAMED else ""
    if few_tokens == REFUSE:
        raise UserError(
            f"method.few_tokens=refuse: too few calibration tokens reach {len(found)} of {len(experts)} matrices of a "
            f"block's experts: {'; '.join(said)}{others}; raise method.calibration_windows, or set all_tokens"
        )
    _log.warning("all tokens of the layer count for %s%s", ", ".join(list(found)[:_NAMED]), others)
    return found


def _table(experts: Mapping[str, PrunableWeight], tokens: Mapping[str, int]) -> str:
    """How many tokens reached the experts of a block, in a line for each module of them."""
    counts: dict[str, dict[int, int]] = {}
    for name, weight in experts.items():
        assert weight.expert is not None, "it is an expert's"
        module = weight.parameter_name.rpartition(".")[0]
        counts.setdefault(module, {})[weight.expert] = tokens.get(name, 0)
    return "\n".join(
        f"{module}: {len(its)} experts, tokens each {', '.join(map(str, its.values()))}"
        for module, its in counts.items()
    )


def _over_ranks(
    ranks: Ranks, groups: dict[str, list[str]], statistics: dict[str, Any], tokens: dict[str, int]
) -> dict[str, int]:
    """Add what the ranks have found, the statistics in place; the tokens that reached each group."""
    found = ranks.gather((groups, tokens))
    if any(theirs != groups for theirs, _ in found):
        raise UserError(
            f"devices={ranks.size}: the windows of different ranks reach different layers, so their statistics cannot "
            "be added; use more calibration windows, or training.fixed_order=true"
        )
    for statistic in statistics.values():
        for tensor in _tensors(statistic):
            ranks.sum_(tensor)
    return {leader: sum(theirs.get(leader, 0) for _, theirs in found) for leader in groups}


def _refuse_not_finite(value: Any, what: str) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in _tensors(value)):
        raise UserError(f"model: {what} hold NaN or infinity; try model.dtype=float32, and check model and data")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a statistic, however deep they lie in it."""
    if isinstance(value, torch.Tensor):
        yield value
        return
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        yield from _tensors(part)
