"""Decoder blocks and prunable weights, found by structure: no list of architectures, no names.

The blocks are the outermost `ModuleList` with the most parameters. Within them the weight of every linear layer
(`nn.Linear`, or GPT-2's `Conv1D`, which stores [inputs, outputs]) is prunable, and so is every matrix of every expert,
of which one parameter may hold many (`elsa.model.experts`); embeddings, norms, biases, routers and the head are not.
`choose` leaves some of them out.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from elsa.distributed.sharding import local, rows_as, rows_like
from elsa.errors import UserError
from elsa.globs import expert_name, matches, refuse_idle
from elsa.model.experts import fused, routers

MINIMUM_COVERAGE = 0.95
_NAMED = 4  # kinds of weights in a line
_LEFT_OUT = "_elsa_left_out"  # attribute of a model, so that copies of it have it too


@dataclass(frozen=True)
class PrunableWeight:
    """A weight matrix that is pruned as a whole, seen as [outputs, inputs] however its layer stores it.

    The parameter is looked up anew at every use, since sharding and changes of dtype may replace it. Where the model is
    spread over ranks, values and gradient are those of this rank's rows, and sizes those of the whole weight.

    Args:
        name: of the weight in `model.state_dict()`, by which everything outside this room knows it.
        module: the layer.
        transposed: its parameter is [inputs, outputs].
        attribute: of the module, which holds the parameter.
        expert: the number of the one whose matrix it is in a parameter [E, O, I], or [E, I, O] if `transposed`; then
            `name` ends with it, and [3] behind the parameter's name is the fourth. None for a parameter that is the
            weight.
    """

    name: str
    module: nn.Module
    transposed: bool
    attribute: str = "weight"
    expert: int | None = None

    @property
    def parameter_name(self) -> str:
        """The name of the parameter that holds the weight; several weights may share one."""
        return self.name if self.expert is None else self.name.removesuffix(f"[{self.expert}]")

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that holds the weight now."""
        return self.module.get_parameter(self.attribute)

    @property
    def bias(self) -> torch.Tensor | None:
        """What its layer adds to its outputs, [O], if it does."""
        return getattr(self.module, "bias", None)

    @property
    def numel(self) -> int:
        """Entries of the whole weight."""
        return self.shape_OI.numel()

    @property
    def value_OI(self) -> torch.Tensor:
        """A view of the weight without gradient tracking: writing to it writes the weight."""
        return self.as_OI(local(self.parameter.detach()))

    @property
    def shape_OI(self) -> torch.Size:
        """[O, I] of the whole weight."""
        shape = self.parameter.shape[0 if self.expert is None else 1 :]
        return torch.Size(reversed(shape)) if self.transposed else shape

    @property
    def row_dim(self) -> int:
        """Where the outputs are in the parameter's shape."""
        return int(self.transposed) + (self.expert is not None)

    @property
    def is_spread(self) -> bool:
        """Whether several ranks hold parts of it."""
        return local(self.parameter) is not self.parameter

    @property
    def gradient_OI(self) -> torch.Tensor:
        """A view of the gradient: writing to it writes the gradient. There must be one."""
        assert self.parameter.grad is not None, f"{self.name} has no gradient"
        return self.as_OI(local(self.parameter.grad))

    def write(self, values_OI: torch.Tensor) -> None:
        """Put `values_OI`, of any dtype, into the weight."""
        self.value_OI.copy_(values_OI)

    def spread(self, part: torch.Tensor) -> torch.Tensor:
        """`part`, this rank's rows, as the part of a tensor for the whole weight; a scalar stays as it is."""
        return rows_like(part, self.as_OI(self.parameter.detach()))

    def own_rows(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's rows of `whole`, a tensor of the whole weight, where the weight is."""
        return rows_as(whole, self.as_OI(self.parameter.detach())).to(self.value_OI.device)

    def as_OI(self, tensor: torch.Tensor) -> torch.Tensor:
        """View of what in `tensor`, of the parameter's shape, belongs to this weight, as [outputs, inputs]."""
        own = tensor if self.expert is None else tensor[self.expert]
        return own.t() if self.transposed else own


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of `model`, in a wrapper of several models those of the text. `UserError` if there is none."""
    outermost = _outermost_lists(_decoder(model))
    if not outermost:
        raise UserError("model: it has no list of decoder blocks (no ModuleList), so there is nothing to prune")
    return max(outermost, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def without_head(model: nn.Module) -> nn.Module:
    """The part of a model that gives its last hidden states."""
    found = cast(PreTrainedModel, model).base_model
    if found is not model:
        return found
    blocks = decoder_blocks(model)  # some (Llama 4) name a base that they have not
    return next(child for child in model.children() if any(module is blocks for module in child.modules()))


def text_part(model: nn.Module) -> nn.Module:
    """What text alone trains: the decoder in a wrapper of several models, else the model."""
    wraps = isinstance(model, PreTrainedModel) and model.config.get_text_config(decoder=True) is not model.config
    return _decoder(model) if wraps else model


def beside_text(model: nn.Module) -> set[int]:
    """The ids of parameters that no text reaches: of a wrapper's towers for pictures and sound, and of projectors."""
    if text_part(model) is model:
        return set()
    whole = cast(PreTrainedModel, model)
    ends = (whole.get_input_embeddings(), whole.get_output_embeddings())
    reached = {id(p) for part in (text_part(model), *ends) if part is not None for p in part.parameters()}
    return {id(parameter) for parameter in model.parameters()} - reached


def shared_by_blocks(model: nn.Module) -> dict[str, list[int]]:
    """The prunable weights that several blocks hold, by name, and which blocks these are (Zamba2)."""
    places: dict[int, list[int]] = {}
    for index, block in enumerate(decoder_blocks(model)):
        for parameter in block.parameters():
            places.setdefault(id(parameter), []).append(index)
    found = {name: places[id(weight.parameter)] for name, weight in prunable_weights(model).items()}
    return {name: its for name, its in found.items() if len(its) > 1}


def choose(model: nn.Module, include: Collection[str] | None, exclude: Collection[str]) -> None:
    """From now on only these weights of a model, and of copies of it, are prunable.

    Args:
        model: whose weights are chosen.
        include: globs over their names (`elsa.globs`); None for all.
        exclude: what matches them is not prunable in any case.

    Raises:
        UserError: for a glob that matches nothing, and if nothing is left.
    """
    setattr(model, _LEFT_OUT, frozenset())
    if include is None and not exclude:
        return
    names = prunable_weights(model)
    refuse_idle("include", include or (), names)
    refuse_idle("exclude", exclude, names)
    chosen = [name for name in names if include is None or any(matches(name, glob) for glob in include)]
    excluded = set(exclude)
    chosen = [n for n in chosen if n not in excluded and not any(matches(n, glob) for glob in exclude)]
    if not chosen:
        key, given = ("exclude", exclude) if exclude else ("include", include)
        raise UserError(f"{key}={list(given or ())}: every prunable weight is left out, so there is nothing to prune")
    setattr(model, _LEFT_OUT, frozenset(names) - frozenset(chosen))


def weights_by_block(model: nn.Module) -> list[dict[str, PrunableWeight]]:
    """The prunable weights of every decoder block of `model`, keyed by their name in `model.state_dict()`.

    Without those that `choose` has left out, so that a block may have none. A weight that several blocks share (Zamba2)
    belongs to the first of them alone.
    """
    left_out: frozenset[str] = getattr(model, _LEFT_OUT, frozenset())
    every = _all_by_block(model)
    return [{name: weight for name, weight in own.items() if name not in left_out} for own in every]


def _all_by_block(model: nn.Module) -> list[dict[str, PrunableWeight]]:
    blocks, seen = decoder_blocks(model), set[int]()
    path = next(name for name, module in model.named_modules() if module is blocks)
    found = []
    for index, block in enumerate(blocks):
        own = {weight.name: weight for weight in _matrices(block, f"{path}.{index}.")}
        found.append({name: weight for name, weight in own.items() if id(weight.parameter) not in seen})
        seen |= {id(weight.parameter) for weight in own.values()}
    return found


def prunable_weights(model: nn.Module) -> dict[str, PrunableWeight]:
    """All prunable weights of `model` in order of the blocks, keyed by their name in `model.state_dict()`."""
    return {name: weight for block in weights_by_block(model) for name, weight in block.items()}


def parameters_of(weights: Mapping[str, PrunableWeight]) -> dict[str, nn.Parameter]:
    """The parameters that hold these weights by name, each once."""
    return {weight.parameter_name: weight.parameter for weight in weights.values()}


def entries_of(weights: Mapping[str, PrunableWeight]) -> dict[str, torch.Tensor]:
    """Which entries of these parameters belong to the weights, bool in the parameters' shapes."""
    found = {name: torch.zeros_like(each, dtype=torch.bool) for name, each in parameters_of(weights).items()}
    for weight in weights.values():
        weight.as_OI(found[weight.parameter_name]).fill_(True)
    return found


def _matrices(block: nn.Module, prefix: str) -> Iterator[PrunableWeight]:
    left_alone = {id(parameter) for parameter in routers(block).values()}
    for path, module in block.named_modules():
        name = f"{prefix}{path}."
        if isinstance(module, (nn.Linear, Conv1D)):
            if id(module.weight) not in left_alone:
                yield PrunableWeight(f"{name}weight", module, isinstance(module, Conv1D))
            continue
        for each in fused(module, f"{prefix}{path}"):
            for expert in range(each.experts):
                its_name = expert_name(f"{name}{each.name}", expert)
                yield PrunableWeight(its_name, module, each.transposed, each.name, expert)


@dataclass(frozen=True)
class Coverage:
    """How much of the blocks' weight matrices will be pruned.

    `left_out`: by `choose`, which could be pruned too; names and entries. `routers`: those of the matrices that choose
    among experts, which are neither pruned nor counted.
    """

    prunable: int
    total: int
    unreached: list[str]
    left_out: dict[str, int] = field(default_factory=dict)
    routers: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of the entries that can be pruned, those that were left out among them."""
        return (self.prunable + sum(self.left_out.values())) / self.total

    def __str__(self) -> str:
        said = f"{self.prunable / self.total:.1%} of {self.total:,} block weights are prunable"
        if self.unreached:
            said += f"; the rest is {', '.join(self._kinds_of_rest())}"
        if self.routers:
            said += f"; {len(self.routers)} routers ({sum(self.routers.values()):,} weights) are left alone"
        if not self.left_out:
            return said
        share = sum(self.left_out.values()) / self.total
        return f"{said}, {share:.1%} were left out on purpose ({len(self.left_out)} matrices)"

    def _kinds_of_rest(self) -> list[str]:
        """The names of what is not reached, without the number of the block."""
        kinds = list(dict.fromkeys(name.partition(".")[2] for name in self.unreached))
        return kinds[:_NAMED] + ["…"] * (len(kinds) > _NAMED)

    def of_all(self) -> "Coverage":
        """That of the same model with nothing left out."""
        return replace(self, prunable=self.prunable + sum(self.left_out.values()), left_out={})

    def facts(self) -> dict[str, Any]:
        """For a record."""
        return {key: value for key, value in asdict(self).items() if value or key not in ("left_out", "routers")}

    def check(self) -> None:
        """Raise `UserError` with the names of what was not reached if the share is below 95 %."""
        if self.share < MINIMUM_COVERAGE:
            names = ", ".join(self.unreached[:4]) + (", …" if len(self.unreached) > 4 else "")
            raise UserError(
                f"model: only {self.share:.1%} of the block weights are linear layers or experts that can be pruned "
                f"(at least {MINIMUM_COVERAGE:.0%} wanted); not reached: {names}"
            )


def coverage(model: nn.Module) -> Coverage:
    """Count the weights of the blocks with two or more dimensions, and those of them that are prunable."""
    blocks = decoder_blocks(model)
    chosen, every = prunable_weights(model), {n: weight for own in _all_by_block(model) for n, weight in own.items()}
    reached = {id(weight.parameter) for weight in every.values()}
    router = {f"{n}.{name}": p for n, block in enumerate(blocks) for name, p in routers(block).items()}
    left_alone = {id(parameter) for parameter in router.values()}
    matrices = {name: p for name, p in blocks.named_parameters() if p.dim() >= 2 and id(p) not in left_alone}
    if not matrices:
        raise UserError("model: its blocks hold no weight matrices")
    return Coverage(
        prunable=sum(weight.numel for weight in chosen.values()),
        total=sum(p.numel() for p in matrices.values()),
        unreached=[name for name, p in matrices.items() if id(p) not in reached],
        left_out={name: weight.numel for name, weight in every.items() if name not in chosen},
        routers={name: parameter.numel() for name, parameter in router.items()},
    )


def _decoder(model: nn.Module) -> nn.Module:
    found = model.get_decoder() if isinstance(model, PreTrainedModel) else None
    return model if found is None else found


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    found = []
    for child in module.children():
        found += [child] if isinstance(child, nn.ModuleList) else _outermost_lists(child)
    return found
