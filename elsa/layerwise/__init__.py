"""The one loop that all layer-wise methods share: capture, statistics of the inputs, prune, propagate."""
