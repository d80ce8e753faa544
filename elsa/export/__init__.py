"""Sparse models on disk and in memory. Importing it lets plain transformers load them."""

from elsa.export.quantizer import register

register()
