"""Methods that go block by block or layer by layer through the shared driver."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from elsa.distributed.ranks import ONE, Ranks
from elsa.errors import UserError, require
from elsa.layerwise.driver import BlockPruner, LayerPruner, prune_blocks
from elsa.layerwise.outliers import Outliers, block_sparsities
from elsa.layerwise.routed import FEW_TOKENS, REFUSE
from elsa.layerwise.statistics import GramStatistics
from elsa.method.base import Method, Task
from elsa.model.weights import (
    PrunableWeight,
    parameters_of,
    prunable_weights,
    shared_by_blocks,
    weights_by_block,
)
from elsa.record.key import NOT_NAMED
from elsa.sparsity.allocation import patterns_of, patterns_of_shares
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import saliency
from elsa.train.budget import Training
from elsa.train.loss import squared_gradients


@dataclass(frozen=True, kw_only=True)
class BlockwiseMethod(BlockPruner, Method):
    """A pruner run by the shared driver, block after block.

    Args:
        calibration_windows: windows of the train split whose activations say what matters.
        few_tokens: what becomes of an expert to which its router sends too few of them: "refuse", or "all_tokens",
            which takes the statistics of all tokens of the layer for it. Too few are fewer than the inputs of its
            matrix for a Gram matrix, and than 32 for norms.
    """

    calibration_windows: int = 128
    few_tokens: str = field(default=REFUSE, metadata=NOT_NAMED)

    def __post_init__(self) -> None:
        require(self.calibration_windows >= 1, "calibration_windows", self.calibration_windows, "at least 1")
        require(self.few_tokens in FEW_TOKENS, "few_tokens", self.few_tokens, f"known: {', '.join(FEW_TOKENS)}")

    @property
    def calibrates(self) -> bool:
        return True

    def draws(self, training: Training) -> set[int]:
        return {self.calibration_windows}

    def apply(self, model: nn.Module, task: Task) -> dict[str, Any]:
        windows = task.windows(self.calibration_windows)
        tokens = prune_together(model, self, task, windows)
        return {"calibration_tokens": windows.numel()} | ({"expert_tokens": tokens} if tokens else {})


def refuse_shared(method: Method, model: nn.Module) -> None:
    """Raise `UserError` if blocks share weights, for a method that fits a block's weights to its own outputs."""
    for name, blocks in shared_by_blocks(model).items():
        raise UserError(
            f"method={method.label}: blocks {', '.join(map(str, blocks))} share {name}, and it fits a block to its "
            "own outputs alone; take one that goes layer by layer (sparsegpt, alps, …) or trains (elsa, …)"
        )


class LayerwiseMethod(LayerPruner, BlockwiseMethod):
    """A block-wise method that goes layer by layer: the verbs of `LayerPruner`, and calibration windows."""


class GramMethod(GramStatistics, LayerwiseMethod):
    """A layer-wise method whose statistic is the Gram matrix XᵀX of the inputs, fp32 [I, I]."""

    additive = True


def prune_together(model: nn.Module, pruner: BlockPruner, task: Task, windows_NL: torch.Tensor) -> dict[str, int]:
    """Run the shared driver over all blocks, on several ranks too: all have the whole model, before and after.

    They share the windows if statistics of windows can be added, and the order in which they are does not matter;
    otherwise the first prunes and the others get its weights. Returns how many tokens reached each expert's matrix.
    """
    ranks = task.ranks
    shares = pruner.additive and not task.training.fixed_order and len(windows_NL) >= ranks.size
    if ranks.size == 1 or shares:
        return prune_model(model, pruner, task.pattern, windows_NL, task.activations, ranks)
    tokens = ranks.once(lambda: prune_model(model, pruner, task.pattern, windows_NL, task.activations))
    for parameter in parameters_of(prunable_weights(model)).values():
        ranks.copy_(parameter.data)
    return tokens


def prune_model(
    model: nn.Module,
    pruner: BlockPruner,
    pattern: Pattern,
    windows_NL: torch.Tensor | None,
    place: str = "auto",
    ranks: Ranks = ONE,
) -> dict[str, int]:
    """Run the shared driver over all blocks of `model`. `ranks`: that share the windows, each with all of the model.

    A global budget is placed by what zeroing an entry would cost the model's own loss: w² times the mean squared
    gradient of the dense model's cross-entropy over the windows (the diagonal of its empirical Fisher information),
    which takes the memory of a backward pass; or w² alone for a method without data. "owl" goes over the dense blocks
    once more than the pruner. Returns how many tokens reached each expert's matrix.
    """
    model.eval()
    blocks = weights_by_block(model)
    if pattern.allocation == "owl":
        assert windows_NL is not None, "the method calibrates"
        patterns = _by_outliers(model, blocks, Outliers(pruner.few_tokens), pattern, windows_NL, place, ranks)
        return prune_blocks(model, blocks, pruner, patterns, windows_NL, place, ranks)
    weights = {name: weight for block in blocks for name, weight in block.items()}
    importance: dict[str, torch.Tensor] = {}
    if pattern.allocation == "global" and windows_NL is not None:
        importance = squared_gradients(model, parameters_of(weights), windows_NL, ranks)

    def cost(name: str) -> torch.Tensor:
        weight = weights[name]
        squares = importance.get(weight.parameter_name)
        return saliency(weight.value_OI.float(), None if squares is None else weight.as_OI(squares))

    patterns = patterns_of(pattern, {name: weight.numel for name, weight in weights.items()}, cost)
    importance.clear()  # as large as the model in fp32, and not needed for the blocks
    return prune_blocks(model, blocks, pruner, patterns, windows_NL, place, ranks)


def _by_outliers(
    model: nn.Module,
    blocks: list[dict[str, PrunableWeight]],
    found: Outliers,
    pattern: Pattern,
    windows_NL: torch.Tensor,
    place: str,
    ranks: Ranks,
) -> dict[str, Pattern]:
    """The pattern of each weight: as sparse as its block by OWL, all together as `pattern` says."""
    prune_blocks(model, blocks, found, {}, windows_NL, place, ranks)
    sizes = {index: sum(weight.numel for weight in blocks[index].values()) for index in found.shares}
    of_blocks = block_sparsities(found.shares, sizes, pattern.sparsity)
    shares = {name: of_blocks[index] for index in of_blocks for name in blocks[index]}
    return patterns_of_shares(shares, {name: weight.numel for own in blocks for name, weight in own.items()})
