"""Scores of a model: perplexity on held-out windows (`perplexity`) and zero-shot accuracy (`zero_shot`)."""
