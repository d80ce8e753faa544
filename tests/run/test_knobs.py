"""Every key of the configs of methods, training and precision has a reader: another value gives other weights."""

import pytest

from tests.run.runs import records

TRAINING = ["training.steps=6", "training.batch_size=2", "training.learning_rate=1e-3", "training.autocast=none"]
SMALL = ["method.calibration_windows=4"]
BASE = {
    "elsa": [*TRAINING, "method.interval=2"],
    "sparsegpt": [*SMALL, "method.block_size=16"],
    "wanda": SMALL,
    "alps": SMALL,
    "l_admm": SMALL,
    "safe": [*SMALL, "method.epochs=2", "method.interval=1", "method.penalty=1.0"],
    "sparsellm": [*SMALL, "method.block_size=16", "method.iterations=1"],
    "elsa_plus": [
        *TRAINING, "method.interval=1", "training.learning_rate=1e-2", "method.start=wanda",
        "method.start_weights=false", "method.hard=false", "method.retention=1", "method.polish_fraction=0",
        "method.ramp_fraction=0",
    ],
    "finetuned": [*TRAINING, "method.start=magnitude"],
}  # fmt: skip
KNOBS = {
    "elsa": [
        "training.steps=8", "training.batch_size=4", "training.optimizer=sgd method.projection=euclidean",
        "training.learning_rate=2e-3", "training.warmup_steps=2", "training.decay_fraction=0.5",
        "training.beta1=0.5", "training.beta2=0.5", "training.gradient_clip=1e-3", "training.autocast=bfloat16",
        "method.interval=3", "method.projection=euclidean", "sparsity.allocation=global", "penalty.contraction=3",
        "penalty=constant", "penalty=constant penalty.value=1.0", "penalty=cosine", "sparsity.ratio=0.6", "seed=1",
        "data.sequence_length=12", "precision.moments=8bit", "precision.moments=8bit precision.weights=bfloat16",
        "precision.state=bfloat16", "precision.state=float8",
        "precision.state=float8 precision.dual=bfloat16", "precision.gradient_release=true",
        "precision.loss_chunk=8", "training.distillation=0.5", "training.distinct_windows=3",
        "training.distillation=0.5 training.hidden_distillation=1",
    ],
    "sparsegpt": [
        "method.damping=1.0", "method.block_size=8", "method.match_reference=true", "method.calibration_windows=2",
        "sparsity=2of4",
    ],
    "wanda": [
        "sparsity.allocation=global", "method.calibration_windows=1", "model.begin_with_bos=true",
        "model.dtype=bfloat16",
    ],
    "alps": [
        "method.damping=1.0", "method.rho=1.0", "method.iterations=3", "method.update_interval=5",
        "method.refine_iterations=2", "method.refine_tolerance=0.5",
    ],
    "l_admm": [
        "method.damping=1.0", "method.iterations=40", "method.mask_iterations=5", "method.match_reference=true",
    ],
    "safe": [
        "method.epochs=3", "method.learning_rate=1e-3", "method.penalty=0.1", "method.perturbation=0.0",
        "method.interval=2", "method.activation_aware=false",
    ],
    "sparsellm": [
        "method.damping=1.0", "method.block_size=8", "method.iterations=2", "method.alpha=1.0", "method.beta=1.0",
        "method.activation_steps=1",
    ],
    "elsa_plus": [
        "method.start=null", "method.start=sparsegpt", "method.start_weights=true",
        "method.retention=0.5", "method.retention=0 method.hard=true", "method.polish_fraction=0.5",
        "method.dual_step=0.5", "method.dual_from=0.5", "method.dual_limit=0.1",
        "training.distillation=0.5", "training.distillation=0.5 method.hidden_distillation=0", "method.interval=2",
        "method.start=null method.ramp_fraction=0.5",
        "method.start=null method.ramp_fraction=0.5 method.ramp_from=0.2",
        "penalty.contraction=3", "method.projection=euclidean",
    ],
    "finetuned": ["method.start=dense", "training.distillation=0.5"],
}  # fmt: skip


_SLOW = ("elsa", "elsa_plus")


@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=pytest.mark.slow if method in _SLOW else ()) for method in KNOBS]
)
def test_every_knob_changes_the_result(elsa, monkeypatch, method):
    """A key without a reader would leave the weights as they are."""
    monkeypatch.setattr("elsa.run.job._Job._pictures", lambda *_: {})
    seen = set()
    for change in ["seed=0", *KNOBS[method]]:
        code, _, err = elsa(f"method={method}", *BASE[method], *change.split(" "))
        assert code == 0, err
        newest = max(records(), key=lambda folder: (folder / "result.json").stat().st_mtime_ns)
        weights = (newest / "model/model.safetensors").read_bytes()
        assert weights not in seen, f"{change} changed nothing"
        seen.add(weights)
