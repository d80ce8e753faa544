"""Optimisers, constraints and loops with the settings that most tests share."""

from torch import nn

from elsa.admm.engine import Admm
from elsa.admm.penalty import Constant
from elsa.admm.phases import Phases
from elsa.model.weights import PrunableWeight, prunable_weights
from elsa.sparsity.pattern import Pattern
from elsa.train.constraint import NoConstraint
from elsa.train.loop import Loop
from elsa.train.optimizer import Optimizer
from elsa.train.sparse import Projection
from elsa.train.task import TrainingTask
from elsa.train.train import trainable
from tests.method.methods import PRECISION, TRAINING

HALF = Pattern(pattern="unstructured", ratio=0.5)


def optimizer_of(model, training=TRAINING, precision=PRECISION):
    return Optimizer(trainable(model), training, precision)


def prunable(model):
    """The weights of a model, or of a linear layer by itself."""
    return (
        {"weight": PrunableWeight("weight", model, False)} if isinstance(model, nn.Linear) else prunable_weights(model)
    )


def admm_on(model, optimizer, pattern=HALF, penalty=None, *, precision=PRECISION, training=TRAINING, **options):
    """`options`: of `Projection` (objective_aware), of `Phases` (steps, interval, …), supports, probe_every."""
    projection = Projection(
        weights=prunable(model), optimizer=optimizer, pattern=pattern,
        objective_aware=options.pop("objective_aware", False),
    )  # fmt: skip
    rest = {key: options.pop(key) for key in ("supports", "probe_every") if key in options}
    phases = Phases(**{"steps": 8, "interval": 2} | options)
    return Admm(projection, penalty or Constant(value=1.0), precision, phases, training, **rest)


def run_loop(model, windows, *, training=TRAINING, precision=PRECISION, constraint=None, optimizer=None, probe_every=0):
    """Train and return the logged lines; the model must be as the precision wants it."""
    logged = []
    optimizer = optimizer or optimizer_of(model, training, precision)
    task = TrainingTask(
        training=training, precision=precision, windows=lambda count: windows[:count],
        log=lambda step, metrics: logged.append((step, metrics)), probe_every=probe_every,
    )  # fmt: skip
    Loop(model, optimizer, constraint or NoConstraint(), task).run(windows)
    return logged
