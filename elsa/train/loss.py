"""What training minimises: cross-entropy of the next token, or the distance to the dense model's own prediction.

Only scored tokens count (`elsa.data.scored`): all of a text, the answers of a conversation.

Shapes: N windows of L tokens (`windows_NL`), their ids (`ids_NL`), T next tokens, V words.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from elsa.data.scored import IGNORED, next_tokens, token_ids
from elsa.distributed.ranks import ONE, Ranks
from elsa.errors import UserError
from elsa.model.weights import decoder_blocks, text_part, without_head
from elsa.track.progress import progress
from elsa.train.release import releasing


class Call(Protocol):
    """Calls a function of the model, wherever its weights are: `call(function, *arguments)`."""

    def __call__(self, function: Callable[..., torch.Tensor], /, *arguments: Any) -> torch.Tensor: ...


def direct(model: nn.Module) -> Call:
    """Of a model that is whole in this process."""
    return lambda function, *arguments: function(model, *arguments)


class _InParts(Protocol):
    """A model whose logits can be made in chunks: its head on its last hidden state."""

    config: Any

    def get_output_embeddings(self) -> nn.Module:
        """The head."""


def next_token_loss(
    model: nn.Module,
    windows_NL: torch.Tensor,
    chunk: int | None = None,
    teacher: nn.Module | None = None,
    distillation: float = 0.0,
    hidden: float = 0.0,
) -> torch.Tensor:
    """(1 − distillation) · cross-entropy + distillation · KL(teacher ‖ model) + hidden · Σ_blocks ‖h − h'‖² / ‖h'‖².

    The last are hidden states after a block, h of the model and h' of the teacher (SquareHead, arXiv:2310.06927). All
    are means over the scored tokens, and 0 where there are none. With `chunk`, the logits of at most that many tokens
    exist at once; they are computed again in the backward pass instead of being kept.
    """
    if teacher is None or not hidden:
        return _prediction_loss(model, windows_NL, chunk, teacher, distillation)
    with _outputs_of_blocks(model) as own, _outputs_of_blocks(teacher) as dense:
        loss = _prediction_loss(model, windows_NL, chunk, teacher, distillation)
    scored_NL = (next_tokens(windows_NL) != IGNORED).view(len(windows_NL), -1)
    distances = [_distance(h, wanted, scored_NL) for h, wanted in zip(own, dense, strict=True)]
    return loss + hidden * torch.stack(distances).sum()


def _distance(hidden_NLH: torch.Tensor, wanted_NLH: torch.Tensor, scored_NL: torch.Tensor) -> torch.Tensor:
    """Squared, relative, mean over the scored tokens."""
    own, wanted = (each[:, :-1].float() for each in (hidden_NLH, wanted_NLH))
    relative_NL = (own - wanted).square().sum(-1) / wanted.square().sum(-1)
    return (relative_NL * scored_NL).sum() / scored_NL.sum().clamp_min(1)


@contextmanager
def _outputs_of_blocks(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Inside, a call of the model leaves the hidden states [N, L, H] after each of its decoder blocks in the list.

    What goes on to the next block is a view of them, so that its gradient is summed up before the loss's own is added,
    on one rank and on several alike.
    """
    found = list[torch.Tensor]()

    def keep(block: nn.Module, inputs: object, output: Any) -> Any:
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        found.append(hidden)
        seen = hidden.view_as(hidden)
        return (seen, *rest) if isinstance(output, tuple) else seen

    hooks = [block.register_forward_hook(keep) for block in decoder_blocks(model)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _prediction_loss(
    model: nn.Module, windows_NL: torch.Tensor, chunk: int | None, teacher: nn.Module | None, distillation: float
) -> torch.Tensor:
    ids_NL, targets = token_ids(windows_NL), next_tokens(windows_NL)
    scored = (targets != IGNORED).sum().clamp_min(1)
    if chunk is None or len(targets) <= chunk:
        expected = None if teacher is None else _without_gradient(_logits, teacher, ids_NL)
        return _loss(_logits(model, ids_NL), targets, expected, distillation) / scored
    hidden = _hidden(model, ids_NL).split(chunk)
    known = [None] * len(hidden) if teacher is None else _without_gradient(_hidden, teacher, ids_NL).split(chunk)

    def summed_loss(some: torch.Tensor, its_targets: torch.Tensor, its_known: torch.Tensor | None) -> torch.Tensor:
        expected = None if teacher is None or its_known is None else _without_gradient(_head, teacher, its_known)
        return _loss(_head(model, some), its_targets, expected, distillation)

    parts = zip(hidden, targets.split(chunk), known, strict=True)
    total: torch.Tensor = sum(checkpoint(summed_loss, *part, use_reentrant=False) for part in parts)
    return total / scored


def _loss(
    logits_TV: torch.Tensor, targets: torch.Tensor, expected_TV: torch.Tensor | None, distillation: float
) -> torch.Tensor:
    """Summed over the scored tokens."""
    if expected_TV is None:
        return F.cross_entropy(logits_TV.float(), targets, reduction="sum")
    predicted = F.log_softmax(logits_TV.float(), dim=-1)
    wanted = F.log_softmax(expected_TV.float(), dim=-1)
    divergence = F.kl_div(predicted, wanted, log_target=True, reduction="none") * (targets != IGNORED)[:, None]
    return distillation * divergence.sum() + (1 - distillation) * F.nll_loss(predicted, targets, reduction="sum")


@torch.no_grad()
def _without_gradient(
    function: Callable[[nn.Module, torch.Tensor], torch.Tensor], teacher: nn.Module, argument: torch.Tensor
) -> torch.Tensor:
    return function(teacher, argument)


def _logits(model: nn.Module, ids_NL: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids_NL, use_cache=False).logits
    return logits[:, :-1].flatten(0, 1)


def _hidden(model: nn.Module, ids_NL: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = without_head(model)(input_ids=ids_NL, use_cache=False).last_hidden_state
    return hidden[:, :-1].flatten(0, 1)


def _head(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states, capped as Gemma does."""
    whole = cast(_InParts, model)
    cap = getattr(whole.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    logits: torch.Tensor = whole.get_output_embeddings()(hidden)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, a model that is being trained is in evaluation mode."""
    trained = text_part(model)
    was_training = trained.training
    model.eval()
    yield
    trained.train(was_training)


@torch.no_grad()
def prove_chunks(model: nn.Module, call: Call, windows_NL: torch.Tensor) -> None:
    """Raise `UserError` if this model's logits are not its head on its last hidden state, as chunks assume."""
    few = token_ids(windows_NL[:1, :64].long())  # all of them scored
    with evaluating(model):
        whole, parts = call(next_token_loss, few), call(next_token_loss, few, max(1, few.shape[1] // 4))
    if not abs(whole - parts) <= 1e-2 * abs(whole):
        raise UserError(
            f"precision.loss_chunk: this model computes its logits in a way of its own (loss {whole:.4f}, in chunks "
            f"{parts:.4f}); set precision.loss_chunk=null"
        )


@torch.enable_grad()
def squared_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], windows_NL: torch.Tensor, ranks: Ranks = ONE
) -> dict[str, torch.Tensor]:
    """Mean over windows of (∂ cross-entropy / ∂ parameter)² by name, fp32, in the parameters' shapes.

    A window counts as one, however many of its tokens are scored. `ranks`: that share the windows, each with all of
    the model.

    No two gradients exist at once: each is squared and dropped as soon as the backward pass has made it.
    """
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    device = next(iter(parameters.values())).device

    def add(name: str, gradient: torch.Tensor) -> None:
        sums[name].add_(gradient.float().square(), alpha=1 / len(windows_NL))

    with releasing(parameters, add):
        for number in progress(ranks.share_of(len(windows_NL)), "weigh the gradients", unit="window"):
            window_1L = windows_NL[number : number + 1].to(device, torch.long)
            next_token_loss(model, window_1L).backward(inputs=list(parameters.values()))
    return {name: ranks.sum_(each) for name, each in sums.items()}
