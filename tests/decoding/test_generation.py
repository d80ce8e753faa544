"""What a model says."""

import copy

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from elsa.decoding.generation import Sampling, continuation, prompt_ids
from elsa.errors import UserError
from tests.conftest import random_model


def likeliest(model, ids, count):
    """Greedy decoding without a cache."""
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


def test_the_likeliest_tokens_are_taken(llama, tokenizer):
    ids = prompt_ids(tokenizer, "the cat", chat=False, bos=False)
    found = continuation(llama, tokenizer, ids, Sampling(tokens=6))
    assert found.text == tokenizer.decode(likeliest(llama, ids, 6))
    assert (found.tokens, found.ended) == (6, False)


def test_a_seed_draws_the_same_again_and_another_one_other_tokens(llama, tokenizer):
    ids = prompt_ids(tokenizer, "the cat", chat=False, bos=False)

    def drawn(seed, top_p=1.0):
        return continuation(llama, tokenizer, ids, Sampling(tokens=8, temperature=1.0, seed=seed, top_p=top_p)).text

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0, 1e-6) == drawn(1, 1e-6) == tokenizer.decode(likeliest(llama, ids, 8))


def test_a_temperature_flattens_and_cuts_off_nothing(llama, tokenizer):
    ids = prompt_ids(tokenizer, "the cat", chat=False, bos=False)

    def drawn(temperature):
        how = [Sampling(tokens=1, temperature=temperature, seed=seed) for seed in range(20)]
        return {continuation(llama, tokenizer, ids, each).text for each in how}

    assert drawn(1e-6) == {tokenizer.decode(likeliest(llama, ids, 1))}
    with torch.no_grad():
        likely = llama(torch.tensor([ids])).logits[0, -1].topk(100).indices
    assert drawn(1e6) - set(tokenizer.batch_decode(likely[:, None]))


def test_an_end_mark_ends_it_and_is_no_part_of_it(llama, tokenizer):
    ids = prompt_ids(tokenizer, "the cat", chat=False, bos=False)
    second = likeliest(llama, ids, 2)[1]
    llama.generation_config = GenerationConfig(eos_token_id=[second])
    found = continuation(llama, tokenizer, ids, Sampling(tokens=6))
    assert (found.tokens, found.ended) == (1, True)
    llama.generation_config = GenerationConfig()
    other = copy.deepcopy(tokenizer)
    other.eos_token = tokenizer.convert_ids_to_tokens(second)  # where the model names none
    assert continuation(llama, other, ids, Sampling(tokens=6)) == found
    other.eos_token = None
    assert continuation(llama, other, ids, Sampling(tokens=6)).tokens == 6


def test_settings_of_the_models_folder_are_left_aside_and_left_there(llama, tokenizer):
    ids = prompt_ids(tokenizer, "the cat", chat=False, bos=False)
    wanted = continuation(llama, tokenizer, ids, Sampling(tokens=6))
    end = llama.generation_config.eos_token_id
    own = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=2, eos_token_id=end)
    llama.generation_config = own
    assert continuation(llama, tokenizer, ids, Sampling(tokens=6)) == wanted
    assert llama.generation_config is own


def test_a_prompt_begins_as_the_run_has_it(tokenizer):
    plain = prompt_ids(tokenizer, "the cat", chat=False, bos=False)
    assert prompt_ids(tokenizer, "the cat", chat=False, bos=True) == [tokenizer.bos_token_id, *plain]
    with pytest.raises(UserError, match=r"prompt='': it has no tokens"):
        prompt_ids(tokenizer, "", chat=False, bos=False)
    with pytest.raises(UserError, match="chat=true: this tokenizer has no chat template"):
        prompt_ids(tokenizer, "the cat", chat=True, bos=False)
    without = copy.deepcopy(tokenizer)
    without.bos_token = None
    with pytest.raises(UserError, match=r"model\.begin_with_bos=true: the model's tokenizer has no BOS"):
        prompt_ids(without, "the cat", chat=False, bos=True)


def test_a_prompt_has_no_marks_but_those_asked_for(tokenizer):
    marking = copy.deepcopy(tokenizer)
    mark = ("<b>", tokenizer.bos_token_id)
    marking.backend_tokenizer.post_processor = TemplateProcessing(single="<b> $A", special_tokens=[mark])
    assert marking("the cat")["input_ids"][0] == tokenizer.bos_token_id
    marking.chat_template = "{{ messages[0].content }}"
    wanted = prompt_ids(tokenizer, "the cat", chat=False, bos=False)
    assert prompt_ids(marking, "the cat", chat=False, bos=False) == wanted
    assert prompt_ids(marking, "the cat", chat=True, bos=False) == wanted


def test_a_chat_is_in_the_tokenizers_template(tokenizer, monkeypatch):
    turns = "{% for m in messages %}<b>{{ m.role }} {{ m.content }}<e>{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", turns + "{% if add_generation_prompt %}<b>{% endif %}")
    ids = prompt_ids(tokenizer, "the cat", chat=True, bos=True)
    assert tokenizer.decode(ids) == "<b>user the cat<e><b>"
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('a system turn is wanted') }}")
    with pytest.raises(UserError, match="chat=true: this tokenizer's chat template fails: a system turn is wanted"):
        prompt_ids(tokenizer, "the cat", chat=True, bos=True)
    monkeypatch.setattr(tokenizer, "chat_template", "{% if false %}{% endif %}")
    with pytest.raises(UserError, match="prompt='the cat': it has no tokens"):
        prompt_ids(tokenizer, "the cat", chat=True, bos=True)


def test_a_model_without_numbers_is_told(tokenizer):
    broken = random_model("llama")
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="no probabilities to draw from"):
        continuation(broken, tokenizer, [1, 2], Sampling(tokens=2, temperature=1.0))


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**{"tokens": 1} | wrong)
