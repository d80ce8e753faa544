"""A tokenizer's chat template."""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from elsa.errors import UserError, in_one_line, require


def as_turn(tokenizer: PreTrainedTokenizerFast, prompt: str, key: str) -> str:
    """The prompt as a user's turn, up to where the answer begins.

    Raises `UserError` that names `key`, the setting that asks for it, if there is no template and if it fails.
    """
    require(tokenizer.chat_template is not None, key, "true", "this tokenizer has no chat template")
    turn = [{"role": "user", "content": prompt}]
    try:
        return str(tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise UserError(f"{key}=true: this tokenizer's chat template fails: {in_one_line(error)}") from error
