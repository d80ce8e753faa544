"""Elsa: surrogate-free ADMM pruning of large language models to 50-99 % sparsity (arXiv:2510.01650).

run = elsa.prune(model="path/or/hub-id", method="elsa_plus", sparsity=0.9, data=["my.jsonl"], steps=256)
elsa.prune_model(model, tokenizer, elsa.methods.Wanda(calibration_windows=32), "2:4")
model, tokenizer = elsa.load(run.folder)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elsa import methods as methods
    from elsa.api import Run as Run
    from elsa.api import evaluate as evaluate
    from elsa.api import load as load
    from elsa.api import prune as prune
    from elsa.api import prune_model as prune_model
    from elsa.errors import UserError as UserError
    from elsa.sparsity.pattern import Pattern as Pattern

__version__ = "0.2.0"

_HOME = dict.fromkeys(("Run", "evaluate", "load", "prune", "prune_model"), "elsa.api")
_HOME |= {"Pattern": "elsa.sparsity.pattern", "UserError": "elsa.errors"}
__all__ = ["Pattern", "Run", "UserError", "__version__", "evaluate", "load", "methods", "prune", "prune_model"]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import elsa` costs nothing."""
    if name == "methods":
        return import_module("elsa.methods")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'elsa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
