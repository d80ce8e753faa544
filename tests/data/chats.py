"""Chat templates, and conversations whose tokens can be counted by hand: each word is one."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["<e>", "<b>", "user", "assistant", "system", "end", *"abcdefgh", *"123456789", "?", "26", "Jul", "2024"]
PLAIN = (
    "{% for message in messages %}{{ message.role + ' ' + message.content + ' end ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ message.role + ' ' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + ' end ' }}{% endgeneration %}{% else %}{{ message.content + ' end ' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
LAST_ALONE = (  # renders an answer otherwise once a question follows
    "{% for message in messages %}{{ message.role + ' ' }}"
    "{% if loop.last and message.role == 'assistant' %}{{ '? ' }}{% endif %}{{ message.content + ' end ' }}{% endfor %}"
)


def word_tokenizer(template=None):
    """Token ids are places in `WORDS`."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>", bos_token="<b>")
    tokenizer.chat_template = template
    return tokenizer


def chat(*contents):
    """Turns of user and assistant."""
    return [{"role": ("user", "assistant")[i % 2], "content": each} for i, each in enumerate(contents)]


def write_chats(path, *chats):
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in chats))
    return str(path)


def shown(window):
    """A window as words, those that are scored in capitals."""
    return " ".join(WORDS[-1 - i].lower() if i < 0 else WORDS[i].upper() for i in map(int, window))
