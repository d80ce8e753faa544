"""SparseLLM: prune a feed-forward part as a whole, through auxiliary activations (arXiv:2402.17946)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from elsa.errors import UserError, require
from elsa.layerwise.capture import BlockReplay
from elsa.layerwise.driver import Patterns, collect, prune_group
from elsa.layerwise.statistics import damped
from elsa.method.layerwise import BlockwiseMethod, refuse_shared
from elsa.method.sparsegpt import SparseGPT
from elsa.model.weights import PrunableWeight, decoder_blocks, weights_by_block

_ROWS_AT_ONCE = 128  # tokens whose activations stay in the processor's cache through all steps


@dataclass(frozen=True, kw_only=True)
class SparseLLM(BlockwiseMethod):
    """Split the feed-forward part by auxiliary activations, and in turn fit weights and activations (Alg. 1).

    arXiv:2402.17946. Attention is pruned by SparseGPT. For y = W₂ φ(W₁ x), or y = W_d (φ(W_g x) ⊙ W_u x), with
    pre-activations z and activations a as variables, each round minimises α‖z − W x‖² + β‖a − φ(z)‖² + α‖y − W₂ a‖²:
    weights by least squares followed by SparseGPT, a in closed form (Eq. 5), z entry by entry in Gauss-Newton steps
    that are kept where they help. Deliberate differences to the reference code: those steps instead of a closed form
    for ReLU and Adam for SiLU; x is taken behind the pruned attention; the last layer is fitted at the end to the
    activations that the pruned layers really give. The paper's values could not be checked: damping and block size are
    SparseGPT's, the others were chosen here.

    Args:
        damping: share of the mean diagonal that is added to Gram matrices.
        block_size: columns that choose their mask together.
        iterations: rounds over weights and activations.
        alpha: α, the weight of the two linear layers' errors.
        beta: β, the weight of the activation's error.
        activation_steps: Gauss-Newton steps of z a round.
    """

    damping: float = 0.01
    block_size: int = 128
    iterations: int = 4
    alpha: float = 5.0
    beta: float = 5.0
    activation_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("damping", "alpha", "beta"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("block_size", "iterations", "activation_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")

    def check_model(self, model: nn.Module) -> None:
        refuse_shared(self, model)
        for block, layers in zip(decoder_blocks(model), weights_by_block(model), strict=True):
            if layers:
                FeedForward.of(block, layers)

    @property
    def _sparsegpt(self) -> SparseGPT:
        return SparseGPT(calibration_windows=self.calibration_windows, damping=self.damping, block_size=self.block_size)

    def prune_block(
        self, replay: BlockReplay | None, index: int, layers: dict[str, PrunableWeight], patterns: Patterns
    ) -> None:
        if not layers:
            return
        assert replay is not None, "it needs inputs"
        feed_forward = FeedForward.of(replay.blocks[index], layers)
        inside = {weight.name for weight in (*feed_forward.first, feed_forward.last)}
        attention = {name: weight for name, weight in layers.items() if name not in inside}
        for names, statistics in collect(replay, index, attention, self._sparsegpt, self.few_tokens):
            prune_group({name: layers[name] for name in names}, statistics, self._sparsegpt, patterns)
        try:
            self._prune_feed_forward(feed_forward, _inputs(replay, index, feed_forward.first[0].module), patterns)
        except torch.linalg.LinAlgError as error:
            raise UserError(
                f"method.damping: a Gram matrix of block {index}'s feed-forward part cannot be factorised ({error}); "
                "raise the damping or use more calibration windows"
            ) from error

    def _prune_feed_forward(self, part: "FeedForward", inputs_TI: torch.Tensor, patterns: Patterns) -> None:
        pre = part.linear(inputs_TI)
        hidden = part.combine(pre)
        # y: what the dense part gives, the goal of all rounds
        target = hidden @ part.last.value_OI.float().t()
        input_gram = inputs_TI.t() @ inputs_TI
        for _ in range(self.iterations):
            self._fit([part.last], hidden, hidden.t() @ hidden, [target], patterns)
            hidden = self._update_hidden(part, pre, target)
            wanted = part.linear(inputs_TI)
            for start in range(0, len(inputs_TI), _ROWS_AT_ONCE):
                few = slice(start, start + _ROWS_AT_ONCE)
                self._update_pre_activations(part, [z[few] for z in pre], [z[few] for z in wanted], hidden[few])
            # biases are not pruned, so the weights answer for the rest
            linear = [z - bias for z, bias in zip(pre, part.biases, strict=True)]
            self._fit(part.first, inputs_TI, input_gram, linear, patterns)
        # no longer a variable: what the pruned layers really give
        hidden = part.combine(part.linear(inputs_TI))
        self._fit([part.last], hidden, hidden.t() @ hidden, [target], patterns)

    def _fit(
        self,
        weights: list[PrunableWeight],
        inputs_TI: torch.Tensor,
        gram_II: torch.Tensor,
        targets_TO: list[torch.Tensor],
        patterns: Patterns,
    ) -> None:
        """Least squares from inputs to targets, then SparseGPT, for weights with the same inputs."""
        # SparseGPT prunes the least-squares solution as if it were the dense weight
        prepared = self._sparsegpt.prepare(gram_II)
        factor = torch.linalg.cholesky(damped(gram_II, self.damping))
        for weight, target in zip(weights, targets_TO, strict=True):
            solution = torch.cholesky_solve(inputs_TI.t() @ target, factor).t()
            weight.write(self._sparsegpt.prune(solution, prepared, patterns[weight.name]))

    def _update_hidden(self, part: "FeedForward", pre: list[torch.Tensor], target_TO: torch.Tensor) -> torch.Tensor:
        """argmin over a of α‖y − W a‖² + β‖a − φ(z)‖² (Eq. 5)."""
        last = part.last.value_OI.float()
        system = self.alpha * last.t() @ last + self.beta * torch.eye(last.shape[1], device=last.device)
        right = self.alpha * target_TO @ last + self.beta * part.combine(pre)
        return right @ torch.cholesky_inverse(torch.linalg.cholesky(system))

    def _update_pre_activations(
        self, part: "FeedForward", pre: list[torch.Tensor], wanted: list[torch.Tensor], hidden: torch.Tensor
    ) -> None:
        """In place and one z_i after the other: argmin over z_i of α(z_i − wanted_i)² + β(a − φ(z))², entry by entry.

        Starts from the better of z_i and wanted_i. The output is linear in z_up, so that one step is exact there.
        """
        for i, goal in enumerate(wanted):

            def output(z: torch.Tensor, i: int = i) -> torch.Tensor:
                return part.combine([*pre[:i], z, *pre[i + 1 :]])

            def take_if_better(
                proposal: torch.Tensor, error: torch.Tensor, lowest: torch.Tensor, i: int = i, goal: torch.Tensor = goal
            ) -> tuple[torch.Tensor, torch.Tensor]:
                its_error = hidden - output(proposal)
                its_cost = self.alpha * (proposal - goal).square() + self.beta * its_error.square()
                better = its_cost < lowest
                pre[i].copy_(torch.where(better, proposal, pre[i]))
                return torch.where(better, its_error, error), torch.where(better, its_cost, lowest)

            error, lowest = take_if_better(pre[i], hidden, torch.full_like(goal, torch.inf))
            error, lowest = take_if_better(goal, error, lowest)
            for _ in range(self.activation_steps if i == 0 else 1):
                with torch.enable_grad():
                    variable = pre[i].clone().requires_grad_()
                    (slope,) = torch.autograd.grad(output(variable).sum(), variable)
                # Gauss-Newton: φ is taken as linear here, which makes both errors quadratic
                step = self.alpha * (goal - pre[i]) + self.beta * slope * error
                proposal = pre[i] + step / (self.alpha + self.beta * slope.square())
                error, lowest = take_if_better(proposal, error, lowest)


@dataclass(frozen=True)
class FeedForward:
    """`first`: the layers that see the block's hidden states (one, or gate and up); `last`: the one behind φ."""

    first: list[PrunableWeight]
    last: PrunableWeight
    activation: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def of(cls, block: nn.Module, layers: dict[str, PrunableWeight]) -> "FeedForward":
        """Find it by what its layers are called in their module. Raises `UserError` for another architecture."""
        weight_of = {id(weight.module): weight for weight in layers.values()}
        named = {child: weight_of[id(m)] for name, m in block.named_modules() if id(m) in weight_of
                 for child in [name.rpartition(".")[2]]}  # fmt: skip
        activations = [
            getattr(module, name) for module in block.modules() for name in ("act_fn", "activation_fn")
            if callable(getattr(module, name, None))
        ]  # fmt: skip
        for first, last in ((["gate_proj", "up_proj"], "down_proj"), (["fc1"], "fc2")):
            if activations and {*first, last} <= named.keys():
                return cls([named[name] for name in first], named[last], activations[0])
        raise UserError(
            "method=sparsellm: it needs feed-forward parts of fc1, fc2 or gate_proj, up_proj, down_proj; "
            f"of what is prunable this block has {', '.join(named)}"
        )

    @property
    def biases(self) -> list[torch.Tensor | float]:
        """The biases of `first`, 0 where a layer has none."""
        return [0.0 if weight.bias is None else weight.bias.detach().float() for weight in self.first]

    def linear(self, inputs_TI: torch.Tensor) -> list[torch.Tensor]:
        """The pre-activations of `first` with its present weights."""
        return [
            inputs_TI @ weight.value_OI.float().t() + bias for weight, bias in zip(self.first, self.biases, strict=True)
        ]

    def combine(self, pre: list[torch.Tensor]) -> torch.Tensor:
        """φ(z), or φ(z_gate) ⊙ z_up."""
        activated = self.activation(pre[0])
        return activated if len(pre) == 1 else activated * pre[1]


def _inputs(replay: BlockReplay, index: int, layer: nn.Module) -> torch.Tensor:
    """What flows into `layer` over all batches, fp32 [T, I]."""
    found: list[torch.Tensor] = []
    with layer.register_forward_pre_hook(lambda module, args: found.append(args[0].flatten(0, -2).float())):
        for batch, hidden in enumerate(replay.hidden):
            replay.run(index, hidden, batch)
    return torch.cat(found)
