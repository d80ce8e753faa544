"""Pruned models on disk."""
