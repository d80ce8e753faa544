"""Scores of a model: perplexity on held-out windows, zero-shot accuracy, and what it writes (`generation`)."""
