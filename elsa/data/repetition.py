"""How much a text repeats itself."""

NGRAM = 4  # tokens


def repetition_share(ids: list[int], length: int = NGRAM) -> float:
    """1 − distinct n-grams / n-grams of these tokens, n being `length`; 0 for fewer tokens than that.

    The seq-rep-n of Welleck et al., arXiv 1908.04319.
    """
    grams = [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
