"""The methods by their classes, and what they train with: `elsa.methods.Wanda(calibration_windows=32)`."""

from elsa.method.alps import Alps
from elsa.method.best import Best
from elsa.method.dense import Dense
from elsa.method.elsa import Elsa
from elsa.method.elsa_plus import ElsaPlus
from elsa.method.finetuned import FineTuned
from elsa.method.l_admm import LAdmm
from elsa.method.magnitude import Magnitude
from elsa.method.reconstruct import Reconstruct
from elsa.method.safe import Safe
from elsa.method.sparsegpt import SparseGPT
from elsa.method.sparsellm import SparseLLM
from elsa.method.swaps import Swaps
from elsa.method.wanda import Wanda
from elsa.train.budget import Training
from elsa.train.precision import Precision

__all__ = [
    "Alps",
    "Best",
    "Dense",
    "Elsa",
    "ElsaPlus",
    "FineTuned",
    "LAdmm",
    "Magnitude",
    "Precision",
    "Reconstruct",
    "Safe",
    "SparseGPT",
    "SparseLLM",
    "Swaps",
    "Training",
    "Wanda",
]  # fmt: skip
