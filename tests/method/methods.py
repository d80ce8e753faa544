"""Every method with settings for models of a few thousand weights."""

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.method.alps import Alps
from elsa.method.base import Task
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

TRAINING = Training(steps=6, batch_size=4, learning_rate=1e-3)
PRECISION = Precision(loss_chunk=None)


def shipped(*overrides):
    """Elsa+ and the groups that it reads as the YAML files give them, but for the size of everything."""
    small = ["training.steps=10", "training.batch_size=2", "training.learning_rate=3e-3"]
    small += ["method.interval=2", "method.start.calibration_windows=8", "probe_every=4"]
    advised = ["training.distillation=1.0", "sparsity.allocation=global", "sparsity.ratio=0.9"]
    return build(PruneConfig, compose("method=elsa_plus", *advised, *small, *overrides))


def task_of(config, windows, log=lambda step, metrics: None, **changes):
    """What a run with this config hands to its method."""
    return Task(
        pattern=config.sparsity, training=config.training, penalty=config.penalty, precision=config.precision,
        windows=lambda count: windows[:count], log=log, probe_every=config.probe_every, **changes,
    )  # fmt: skip


METHODS = {
    "dense": Dense(),
    "magnitude": Magnitude(match_reference=False),
    "wanda": Wanda(calibration_windows=8),
    "sparsegpt": SparseGPT(calibration_windows=8, damping=0.01, block_size=16, match_reference=False),
    "alps": Alps(
        calibration_windows=8,
        damping=0.01,
        rho=0.1,
        iterations=300,
        update_interval=3,
        refine_iterations=10,
        refine_tolerance=1e-4,
    ),
    "l_admm": LAdmm(calibration_windows=8, damping=0.1, iterations=20, mask_iterations=15, match_reference=False),
    "safe": Safe(
        calibration_windows=8,
        epochs=2,
        learning_rate=1e-3,
        penalty=0.1,
        perturbation=1e-3,
        interval=1,
        activation_aware=True,
    ),
    "sparsellm": SparseLLM(
        calibration_windows=8, damping=0.01, block_size=16, iterations=2, alpha=5.0, beta=5.0, activation_steps=2
    ),
    "best": Best(interval=2, warmup_fraction=0.2),
    "elsa": Elsa(interval=2, projection="objective_aware"),
    "elsa_plus": ElsaPlus(
        interval=1,
        projection="objective_aware",
        start=Wanda(calibration_windows=8),
        start_weights=False,
        retention=0.5,
        dual_step=0.9,
        dual_from=0.2,
        dual_limit=4.0,
        polish_fraction=0.4,
        ramp_fraction=0.0,
        ramp_from=0.0,
        hard=False,
    ),
    "swaps": Swaps(start=SparseGPT(calibration_windows=8), calibration_windows=8),
    "reconstruct": Reconstruct(start=SparseGPT(calibration_windows=8), calibration_windows=8, epochs=2),
    "finetuned": FineTuned(start=Wanda(calibration_windows=8)),
}
