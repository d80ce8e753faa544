"""What a model is worth: perplexity on named held-out windows."""
