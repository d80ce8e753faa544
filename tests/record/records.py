"""A record as a run leaves it, small enough to be damaged by hand."""

import copy

_TASK = {"acc": 0.5, "acc_stderr": 0.1, "n": 2, "version": 1.0, "num_fewshot": 0, "data_sha256": "d"}


def record(method="wanda", pattern="50%", perplexity=20.0, **changed):
    """Of format 3. `changed`: top-level keys."""
    zeros = 0 if pattern == "dense" else 50
    score = {"perplexity": perplexity, "windows": 8, "length": 16, "split": "test", "formula": "standard"}
    score |= {"autocast": "none", "data_sha256": "d"}
    return {
        "format": 3, "name": f"tiny-{method}-{pattern}", "model": "tiny", "method": method, "pattern": pattern,
        "seed": 0, "settings": {"method": {"type": method, "rate": 1}}, "facts": {"training_tokens": 8},
        "config": {"model": {"name": "tiny"}, "sparsity": {"pattern": "unstructured", "ratio": 0.5}},
        "sparsity": {
            "asked": 0.5, "counted": zeros / 100, "zeros": zeros, "numel": 100,
            "tensors": {"weight": {"zeros": zeros, "numel": 100}},
        },
        "seconds": {"prune": 1.0}, "environment": {"libraries": {"torch": "2"}, "threads": 1}, "peak_memory_bytes": 1,
        "evaluations": [{"key": "a-b", "config": {}, "perplexity": {"held_out": score}}],
    } | changed  # fmt: skip


def answered(**changed):
    """A record with zero-shot scores."""
    found = record(**changed)
    scores = {"tasks": {"rte": dict(_TASK)}, "items": {"rte": [0, 1]}, "average_acc": 0.5, "limit": None}
    found["evaluations"][0]["zero_shot"] = scores | {"dtype": "float32", "lm_eval": "0.4"}
    return found


def wrote(**changed):
    """A record with scores of generation, compared with the dense model's."""
    found = record(**changed)
    metrics = {"exact_match,strict-match": {"value": 0.5, "stderr": 0.1}, "bleu,none": {"value": 31.25}}
    task = _TASK | {"accuracy": "exact_match,strict-match", "tokens": 120.5, "repetition": 0.25, "cut": 0.125}
    scores = {
        "tasks": {"gsm8k": task | {"num_fewshot": 5, "max_new_tokens": 256, "cut_prompts": 0, "metrics": metrics}},
        "items": {"gsm8k": {"acc": [0, 1], "tokens": [200, 41], "repetition": [0.5, 0], "cut": [0.25, 0]}},
        "average_acc": 0.5, "limit": None, "dtype": "float32", "lm_eval": "0.4",
        "settings": {"apply_chat_template": False, "batch_size": 8},
    }  # fmt: skip
    shares = {"difference": -0.125, "low": -0.5, "high": 0.25, "n": 2}
    pairs = {
        "acc": shares | {"lost": 1, "gained": 0},
        "tokens": {"difference": 20.5, "low": -1.0, "high": 42.0, "n": 2},
    }
    pairs |= {"repetition": shares, "cut": shares}
    found["evaluations"][0] |= {"generation": scores, "generation_against_dense": {"gsm8k": pairs}}
    return found


def damaged(whole, path, *value):
    """`whole` with another value at the dotted path, or without it."""
    found = copy.deepcopy(whole)
    at, (*parents, last) = found, path.split(".")
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value:
        at[last] = value[0]
    else:
        del at[last]
    return found
