"""Weights spread over the ranks by rows, with FSDP2: each holds its rows of every parameter, whole only while in use.

Shapes: a prunable weight is [O, I]; a rank has some of its O rows, maybe none.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from elsa.distributed.ranks import Ranks
from elsa.errors import UserError

T = TypeVar("T")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor: a view, all of it where it is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor from the parts of all ranks, which all must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def rows_like(part: torch.Tensor, like_OI: torch.Tensor) -> torch.Tensor:
    """A tensor whose rows are spread over the ranks as those of a weight are, from this rank's part.

    `part`: of this rank, [its rows, ...]. `like_OI`: the weight, as a view [O, I] of its parameter. What the weight is
    not spread for, or has no rows, is given back as it is.
    """
    if not isinstance(like_OI, DTensor) or part.dim() == 0:
        return part
    shape = torch.Size((like_OI.shape[0], *part.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    mesh = like_OI.device_mesh
    return DTensor.from_local(part.contiguous(), mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def spread_like(part: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor as that of the whole, spread as the parameter is: of its shape, or one-dimensional
    and in equal parts.
    """
    assert isinstance(parameter, DTensor), "it is spread"
    if part.shape == parameter.to_local().shape:
        shape, stride, placements = parameter.shape, parameter.stride(), parameter.placements
    else:
        assert part.dim() == 1, "something of each block of memory"
        shape, stride, placements = torch.Size((len(part) * parameter.device_mesh.size(),)), (1,), (Shard(0),)
    return DTensor.from_local(part, parameter.device_mesh, placements, run_check=False, shape=shape, stride=stride)


def rows_as(saved: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor of the whole, spread as the parameter is; a scalar is the same for all.

    `saved`: by any number of ranks, which is the part already, or by one process.
    """
    if isinstance(saved, DTensor) or not isinstance(parameter, DTensor) or saved.dim() == 0:
        return local(saved)
    (placement,) = parameter.placements
    assert isinstance(placement, Shard), "FSDP spreads all parameters"
    dim = placement.dim if saved.dim() == parameter.dim() else 0
    return _chunk(saved, parameter.device_mesh, dim).to(parameter.to_local().device)


def is_in_equal_rows(parameter: torch.Tensor) -> bool:
    """Whether each rank has as many of its rows."""
    if not isinstance(parameter, DTensor):
        return False
    return parameter.placements == (Shard(0),) and parameter.shape[0] % parameter.device_mesh.size() == 0


def spread_as(saved: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """A saved tensor, spread over the ranks as the live one is, on its device."""
    if isinstance(saved, DTensor) or not isinstance(live, DTensor):
        return saved
    return spread_like(rows_as(saved, live), live)


def gathered(model: nn.Module, ranks: Ranks) -> dict[str, torch.Tensor] | None:
    """The state dict of a model that is spread over ranks, whole, in CPU memory; None where it is not spread.

    The first rank alone gets the tensors; tied ones stay tied.
    """
    state = model.state_dict(keep_vars=True)
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return None
    found: dict[int, torch.Tensor] = {}
    result = {}
    for name, tensor in state.items():
        if id(tensor) not in found:
            full = whole(tensor.detach())
            found[id(tensor)] = full.cpu() if ranks.first else full.new_empty(0)
        result[name] = found[id(tensor)]
    return result if ranks.first else {}


def _chunk(tensor: torch.Tensor, mesh: DeviceMesh, dim: int) -> torch.Tensor:
    """This rank's part of a whole tensor, as FSDP cuts it: equal parts, the last ones shorter or empty.

    It lies in one piece: fused Adam goes through memory, and takes what it finds there for the parameter's neighbour.
    """
    parts = list(tensor.chunk(mesh.size(), dim))
    rank = mesh.get_local_rank()
    return (parts[rank] if rank < len(parts) else tensor.narrow(dim, 0, 0)).contiguous()


class Spread:
    """A model, wherever it lies, as all ranks hold it together on their devices.

    `fixed_order`: gradients are summed as a balanced tree over the ranks.
    `blocks`: those whose weights are whole only while they work; what is outside is so during the whole of a pass.
    `row_dims`: where the outputs of a weight lie in a parameter that stores them elsewhere than first ([I, O], or the
    matrices of experts), by which it is spread.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        row_dims: Mapping[str, int],
        ranks: Ranks,
        *,
        fixed_order: bool,
    ):
        parameters = dict(model.named_parameters())
        mesh = init_device_mesh(ranks.device, (ranks.size,))
        dims = {id(parameters[name]): dim for name, dim in row_dims.items()}
        for name, dim in row_dims.items():
            if parameters[name].shape[dim] % ranks.size:
                outputs = parameters[name].shape[dim]
                raise UserError(
                    f"devices={ranks.size}: {name} has {outputs} outputs, not as rows, which cannot be spread evenly; "
                    "take a number that divides them"
                )
        self._root = _Root(model)

        def placement(parameter: nn.Parameter) -> Shard:
            return Shard(dims.get(id(parameter), 0))

        for module in (*_separate(blocks), self._root):
            fully_shard(module, mesh=mesh, shard_placement_fn=placement)
        if fixed_order:
            if not hasattr(FSDPModule, "set_custom_reduce_scatter"):
                raise UserError("training.fixed_order=True: on several devices it needs a newer torch than this one")
            for module in self._root.modules():
                if isinstance(module, FSDPModule):
                    module.set_custom_reduce_scatter(cast(Any, _Tree()))  # the class that it wants is private

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(model, *arguments)`, as one forward pass of all ranks."""
        result: T = self._root(function, *arguments)
        if not (isinstance(result, torch.Tensor) and result.requires_grad):  # no backward pass will do so
            cast(FSDPModule, self._root).reshard()
        return result


def spread_blocks(blocks: Iterable[nn.Module], ranks: Ranks) -> None:
    """Spread the weights of blocks that are only read over the ranks' devices, each block's whole while it works."""
    mesh = init_device_mesh(ranks.device, (ranks.size,))
    for block in _separate(blocks):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)


class _Root(nn.Module):
    """Any function of a model as a forward pass, in which the weights outside its blocks are whole."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(self.model, *arguments)


def _separate(blocks: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Those that share no parameter with another one."""
    blocks = list(blocks)
    owners = Counter(id(parameter) for block in blocks for parameter in block.parameters())
    yield from (block for block in blocks if all(owners[id(p)] == 1 for p in block.parameters()))


class _Tree:
    """FSDP's reduce-scatter as a balanced tree of sums over the ranks, so that its order does not depend on them."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: dist.ProcessGroup, op: Any, **_: Any
    ) -> None:
        parts = torch.empty_like(input_tensor)
        dist.all_to_all_single(parts, input_tensor, group=group)
        output_tensor.copy_(tree_sum(list(parts.view(group.size(), -1))))


def tree_sum(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their sum: neighbours first, then the sums of neighbours, an odd one out at the end as it is."""
    tree = TreeSum()
    for part in parts:
        tree.add(part)
    return tree.total()


class TreeSum:
    """`tree_sum` of what comes one by one, of which no more than the logarithm of their number is kept."""

    def __init__(self) -> None:
        self._levels: list[torch.Tensor | None] = []  # level k holds the sum of 2ᵏ neighbours

    def add(self, part: torch.Tensor) -> None:
        for level, held in enumerate(self._levels):
            if held is None:
                self._levels[level] = part
                return
            self._levels[level], part = None, held + part
        self._levels.append(part)

    def total(self) -> torch.Tensor:
        held = [level for level in self._levels if level is not None]  # the last that came stand first
        total = held[0]
        for level in held[1:]:
            total = level + total
        return total
