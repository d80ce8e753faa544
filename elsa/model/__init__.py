"""Where models come from (`loading`) and which of their weights are pruned (`weights`)."""
