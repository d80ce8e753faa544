"""Token windows packed in batches, beside one document at a time: windows a second of each, and the ratio.

The second way is that of the Elsa reference code, written anew: draw a document at random, tokenise it alone, throw it
away unless it is longer than a window, cut one window at a random place.

python scripts/bench/windows.py corpus.jsonl [--model smollm2_135m] [--length 1024] [--windows 512]
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.data.sources import Text
from elsa.data.windows import WindowReader


def one_at_a_time(documents: list[str], tokenizer: PreTrainedTokenizerFast, length: int, count: int) -> list[list[int]]:
    windows: list[list[int]] = []
    while len(windows) < count:
        ids = tokenizer(random.choice(documents))["input_ids"]
        if len(ids) > length:
            start = random.randint(0, len(ids) - length - 1)
            windows.append(ids[start : start + length])
    return windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="text or JSONL file")
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=512)
    options = parser.parse_args()

    run = build(PruneConfig, compose(f"model={options.model}"))
    _, tokenizer = run.model.load(Path(run.paths.cache), "cpu")
    source = Text(sequence_length=options.length, train=[options.corpus], validation=[], test=[], join=None)
    documents = source.documents("train")
    random.seed(0)
    start = time.perf_counter()
    slow = max(1, options.windows // 16)
    one_at_a_time(documents, tokenizer, options.length, slow)
    rates = {"one document at a time": slow / (time.perf_counter() - start)}
    with tempfile.TemporaryDirectory() as cache:
        reader = WindowReader(tokenizer=tokenizer, cache=Path(cache))
        start = time.perf_counter()
        reader.training(source, options.windows, seed=0)
        rates["packed in batches"] = options.windows / (time.perf_counter() - start)
        start = time.perf_counter()
        reader.training(source, options.windows, seed=0)
        rates["from the cache"] = options.windows / (time.perf_counter() - start)
    print(f"{len(documents)} documents, windows of {options.length} tokens")
    for name, rate in rates.items():
        print(f"  {name:<24}{rate:12.1f} windows/s   {rate / rates['one document at a time']:10.1f} x")


if __name__ == "__main__":
    main()
