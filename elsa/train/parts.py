"""A step's windows go through the model in parts, dealt out to the ranks; what comes of them is put together here.

Without `fixed_order` sums are made in the order that is fastest where they are made. With it the same windows give the
same bits on 1, 2, 4, 8 ... ranks: parts are the same whatever the ranks, and sums of them are balanced trees.

Shapes: N windows of L tokens, P parts of a step; a parameter has rows, which are spread over the ranks.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from elsa.data.scored import scored
from elsa.distributed.ranks import Ranks
from elsa.distributed.sharding import TreeSum, local
from elsa.train.budget import Training


class Parts:
    """`count`: of all ranks together, at least one for each. `row_dims`: see `elsa.distributed.sharding.Spread`."""

    def __init__(self, training: Training, ranks: Ranks, row_dims: Mapping[str, int] | None = None):
        training.check_ranks(ranks.size)
        self.count = max(training.accumulation, ranks.size)
        self._ranks, self._row_dims, self._limit = ranks, row_dims or {}, training.gradient_clip
        self._fixed = training.fixed_order
        self._seed = torch.initial_seed()

    @property
    def alone(self) -> bool:
        """Whether one process does all, in the order that it likes."""
        return self._ranks.size == 1 and not self._fixed

    def mine(self, batch_NL: torch.Tensor) -> list[torch.Tensor]:
        """This rank's parts of a batch: every size-th, so that those of neighbours are neighbours."""
        parts = batch_NL.chunk(self.count)
        return [parts[number] for number in self._ranks.share_of(len(parts))]

    def weights(self, batch_NL: torch.Tensor) -> list[float]:
        """Of this rank's parts in the mean over all, by their scored tokens: 1 each where all have as many, as text."""
        tokens = [scored(part) for part in batch_NL.chunk(self.count)]
        return [tokens[number] * len(tokens) / max(1, sum(tokens)) for number in self._ranks.share_of(len(tokens))]

    @property
    def divisor(self) -> int:
        """What the loss of a part is divided by: FSDP takes the mean over ranks, the tree their sum."""
        return self.count if self._fixed else self.count // self._ranks.size

    def seed(self, step: int, number: int) -> None:
        """Begin the random numbers of this rank's part `number` of a step anew, so that they are no other's."""
        if not self.alone:
            words = [self._seed, step, number * self._ranks.size + self._ranks.rank]
            torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        """Of the losses [its parts] of all ranks; the same bits on all, and with any number of them."""
        return self._ranks.stacked(losses).t().flatten().mean()

    def gathered(self) -> "GradientSums | None":
        """What adds up the gradients of the parts in a fixed order, None where `.grad` does so by itself."""
        return GradientSums() if self._fixed and self.count > self._ranks.size else None

    def squares(self) -> "Squares":
        """Of the gradients of a step."""
        return Squares(self._ranks, self._fixed, self._row_dims)

    def clip(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Scale the gradients of all to the wanted global norm at most."""
        if self.alone:
            nn.utils.clip_grad_norm_(parameters.values(), self._limit)
            return
        squares = self.squares()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                squares.add(name, parameter.grad)
        factor = squares.clipping_factor(self._limit)
        for parameter in parameters.values():
            if parameter.grad is not None:
                local(parameter.grad).mul_(factor)


class GradientSums:
    """The gradients of a step's parts as a balanced tree of sums."""

    def __init__(self) -> None:
        self._sums: dict[str, TreeSum] = {}

    def take(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take the gradients of one part from the parameters."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                self._sums.setdefault(name, TreeSum()).add(parameter.grad)
                parameter.grad = None

    def give(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give the parameters the sums of all parts."""
        for name, its in self._sums.items():
            parameters[name].grad = its.total()


class Squares:
    """‖gradient‖² of all parameters, gathered one by one."""

    def __init__(self, ranks: Ranks, fixed_order: bool, row_dims: Mapping[str, int]):
        self._ranks, self._fixed, self._row_dims = ranks, fixed_order, row_dims
        self._of: dict[str, torch.Tensor] = {}
        self._rows: dict[str, int] = {}  # of the whole parameter

    def add(self, name: str, gradient: torch.Tensor) -> None:
        squares = local(gradient).float().square()
        if self._fixed:
            dim = self._row_dims.get(name, 0)
            self._rows[name] = gradient.shape[dim] if gradient.dim() else 1
            # contiguous: the order in which a row is summed depends on how it lies in memory
            squares = squares.movedim(dim, 0).contiguous().flatten(1) if squares.dim() > 1 else squares.reshape(-1, 1)
            self._of[name] = squares.sum(1)
        else:
            self._of[name] = squares.sum()

    def clipping_factor(self, limit: float) -> torch.Tensor:
        """What brings the norm over all parameters and ranks to `limit`, at most 1; the norm is then dropped."""
        total = self._in_order() if self._fixed else self._ranks.sum_(torch.stack(list(self._of.values())).sum())
        # the same 1e-6 as in torch's clip_grad_norm_
        return (limit / (total.sqrt() + 1e-6)).clamp_max(1.0)

    def _in_order(self) -> torch.Tensor:
        """The sum over the rows of all parameters, in the order of names and rows."""
        names, size = sorted(self._of), self._ranks.size
        lengths = [-(-self._rows[name] // size) for name in names]  # of the ranks' parts, the last ones shorter
        padded = [
            nn.functional.pad(self._of[name], (0, length - len(self._of[name])))
            for name, length in zip(names, lengths, strict=True)
        ]
        parts = self._ranks.stacked(torch.cat(padded)).split(lengths, dim=1)
        return torch.cat([part.flatten()[: self._rows[name]] for name, part in zip(names, parts, strict=True)]).sum()
