"""Records and facts of exports, with all that a card may have to show."""

import copy
import json
from pathlib import Path

from elsa.publish.card import Published
from elsa.record.record import parsed

RECORDS = Path(__file__).parents[2] / "docs/results/tiny_90/records"
SHA = "ab" * 32
SETS = {
    "held_out": {"_target_": "elsa.data.sources.Stdlib", "sequence_length": 256},
    "c4": {
        "_target_": "elsa.data.sources.HubText", "repository": "allenai/c4", "revision": "1588ec454efa1a09f29cd18ddd04",
        "train": "en/c4-train.json.gz", "validation": "en/c4-validation.json.gz", "test": "en/c4-validation.json.gz",
    },
    "mine": {
        "_target_": "elsa.data.sources.Text", "train": ["/home/annkathrin/corpora/own.jsonl"], "join": " / ",
        "test": ["/home/annkathrin/corpora/own_test.jsonl", "~/more/text.txt"], "validation": [],
    },
}  # fmt: skip
EXPORT = {
    "format": 1, "name": "sparse-bfloat16", "dtype": "bfloat16",
    "bytes": {"total": 1519920, "dense": 5510016, "source": 11026008, "matrices": 1, "matrices_dense": 2},
    "ratio": {"of_dense": 0.27584674890236255, "of_source": 0.13784862118728736, "matrices_of_dense": 0.154388427},
    "zeros": {"numel": 2359296, "before": 2123376, "after": 2123399},
    "files": {"elsa.safetensors": SHA},
}  # fmt: skip


def score(perplexity=26.8571, **changes):
    known = {"windows": 128, "length": 256, "targets": 32640, "split": "test", "formula": "standard"}
    return {"perplexity": perplexity, "loss": 3.29, "autocast": "none", "data_sha256": SHA} | known | changes


def zero_shot(limit=None):
    task = {"n": 237, "version": 1, "num_fewshot": 3, "data_sha256": SHA, "acc": 0.43251, "acc_stderr": 0.01021}
    tasks = {"arc_easy": task | {"acc_norm": 0.41119, "acc_norm_stderr": 0.01015, "brier": 0.77123}}
    tasks |= {"boolq": task | {"acc": 0.61777}}
    return {
        "tasks": tasks,
        "items": {},
        "average_acc": 0.52514,
        "limit": limit,
        "dtype": "float32",
        "lm_eval": "0.4.13",
    }


PAIRS = {
    "arc_easy": {"difference": -0.12345, "low": -0.18765, "high": -0.05925, "lost": 41, "gained": 17},
}  # fmt: skip


def record(name="tiny-elsa-0.9-e95e9bc13e28", model=None, **evaluation):
    """One that was committed, with a base model of the hub, and other scores."""
    found = parsed((RECORDS / f"{name}.json").read_text(), name)
    found["config"]["model"] = {"_target_": "elsa.model.loading.Pretrained"} | (model or {"path": "acme/base"})
    found |= {"dtype": "float32", "devices": 1}
    if evaluation:
        config = {"_target_": "elsa.evaluation.perplexity.Perplexity", "sets": copy.deepcopy(SETS)}
        found["evaluations"] = [{"key": "k", "config": config} | evaluation]
    return found


def full_record(limit=None):
    """Every kind of score; one of them twice, the first time with another result."""
    sets = {"held_out": score(), "c4": score(35.0812, windows=256, length=2048, formula="official", draw="first")}
    sets |= {"mine": score("inf")}
    found = record(perplexity=sets, zero_shot=zero_shot(limit), zero_shot_against_dense=PAIRS)
    earlier = copy.deepcopy(found["evaluations"][0])
    earlier["perplexity"]["held_out"]["perplexity"] = 99.125
    earlier["perplexity"] |= {"few": score(31.0625, windows=16)}
    earlier["zero_shot"]["tasks"]["boolq"]["acc"] = 0.11
    found["evaluations"].insert(0, earlier)
    return found


def about(record, export=EXPORT, sparse=True, base_model="acme/base"):
    kept = None if export is None else json.loads(json.dumps(export))
    return Published(
        repo="acme/base-90", base_model=base_model, license="apache-2.0", record=record, export=kept, sparse=sparse
    )
