"""Next-token loss, with all logits at once or a few tokens at a time.

Shapes: N windows of L tokens (`ids_NL`).
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from elsa.errors import UserError


def next_token_loss(model: nn.Module, ids_NL: torch.Tensor, chunk: int | None = None) -> torch.Tensor:
    """Mean cross-entropy of the next token. With `chunk`, the logits of at most that many tokens exist at once.

    The logits of a chunk are computed again in the backward pass instead of being kept.
    """
    targets = ids_NL[:, 1:].flatten()
    if chunk is None or len(targets) <= chunk:
        logits = model(input_ids=ids_NL, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets)
    hidden = model.base_model(input_ids=ids_NL, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    head, cap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)

    def summed_loss(some_hidden: torch.Tensor, its_targets: torch.Tensor) -> torch.Tensor:
        logits = head(some_hidden).float()
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        return F.cross_entropy(logits, its_targets, reduction="sum")

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return sum(checkpoint(summed_loss, *part, use_reentrant=False) for part in parts) / len(targets)


@torch.no_grad()
def prove_chunks(model: nn.Module, ids_NL: torch.Tensor) -> None:
    """Raise `UserError` if this model's logits are not its head on its last hidden state, as chunks assume."""
    was_training = model.training
    few = ids_NL[:1, :64].to(next(model.parameters()).device, torch.long)
    model.eval()
    whole, parts = next_token_loss(model, few), next_token_loss(model, few, chunk=max(1, few.shape[1] // 4))
    model.train(was_training)
    if not abs(whole - parts) <= 1e-2 * abs(whole):
        raise UserError(
            f"precision.loss_chunk: this model computes its logits in a way of its own (loss {whole:.4f}, in chunks "
            f"{parts:.4f}); set precision.loss_chunk=null"
        )
