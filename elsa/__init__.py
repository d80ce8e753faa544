"""Elsa: surrogate-free ADMM pruning of large language models to 50-99 % sparsity (arXiv:2510.01650)."""

__version__ = "0.1.0"
