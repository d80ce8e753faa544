"""What "sparse" means: patterns, exact selection, projection. Torch only."""
