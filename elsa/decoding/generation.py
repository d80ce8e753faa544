"""What a model says after a prompt, and how much it repeats itself.

Shapes: B sequences of L tokens.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from elsa.data.repetition import repetition_share
from elsa.data.template import as_turn
from elsa.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`tokens`: at most. `temperature`: 0 takes the likeliest token, whatever `top_p` and `seed`."""

    tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "tokens", self.tokens, "at least 1")
        require(self.temperature >= 0, "temperature", self.temperature, "from 0 up, where 0 takes the likeliest token")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, at most 1")
        require(self.seed >= 0, "seed", self.seed, "a whole number from 0 up")


@dataclass(frozen=True)
class Continuation:
    """`ended`: by the model's own end mark. `repetition`: `repetition_share` of its tokens."""

    text: str
    tokens: int
    ended: bool
    repetition: float


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str, *, chat: bool, bos: bool) -> list[int]:
    """The tokens of a prompt. `chat`: as a user's turn in the tokenizer's template. `bos`: begin with that mark.

    Raises `UserError` for a prompt of no tokens, a mark or a template that there is not, and one that fails.
    """
    if chat:
        text = as_turn(tokenizer, prompt, "chat")
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    else:
        ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if bos:
            has_bos = tokenizer.bos_token_id is not None
            require(has_bos, "model.begin_with_bos", "true", "the model's tokenizer has no BOS")
            ids = [tokenizer.bos_token_id, *ids]
    require(bool(ids), "prompt", repr(prompt), "it has no tokens")
    return ids


def continuation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: list[int], how: Sampling
) -> Continuation:
    """What the model says after these tokens. The settings that its folder brings for generation are left aside."""
    end = _end_marks(model, tokenizer)
    settings: dict[str, Any] = {"max_new_tokens": how.tokens, "do_sample": how.temperature > 0, "eos_token_id": end}
    settings["pad_token_id"] = end[0] if end else 0
    if how.temperature > 0:
        settings |= {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
    ids_BL, generator = torch.tensor([ids], device=model.device), cast(Any, model)  # typed without its own `self`
    torch.manual_seed(how.seed)
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with torch.no_grad():
            found_BL = generator.generate(
                ids_BL, attention_mask=torch.ones_like(ids_BL), generation_config=GenerationConfig(**settings)
            )
    except (RuntimeError, ValueError) as error:
        if "probability tensor" not in str(error):
            raise
        raise UserError("temperature: the model gives no probabilities to draw from (NaN or infinity)") from error
    finally:
        model.generation_config = own
    new = cast(torch.Tensor, found_BL)[0, len(ids) :].tolist()
    ended = bool(new) and new[-1] in end
    said = new[:-1] if ended else new
    return Continuation(str(tokenizer.decode(said)), len(said), ended, repetition_share(said))


def _end_marks(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Those that the model's folder names, else the tokenizer's."""
    named: Any = model.generation_config.eos_token_id if model.generation_config is not None else None
    named = tokenizer.eos_token_id if named is None else named
    return [] if named is None else list(named) if isinstance(named, (list, tuple)) else [named]
