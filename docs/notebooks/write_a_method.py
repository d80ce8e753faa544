# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Write a method
#
# A method is a frozen dataclass. Here are two, tried on a model in memory; what makes a package of one, so that `elsa
# method=…` finds it, is in [the guide](../add_a_method.md).

# %%
import doctest
import inspect
import os
from dataclasses import dataclass
from pathlib import Path

import torch

import elsa
from elsa.errors import require
from elsa.method.base import Method
from elsa.method.layerwise import LayerwiseMethod
from elsa.model.weights import prunable_weights
from elsa.sparsity.projection import project
from elsa.train.constraint import NoConstraint
from elsa.train.train import train

WINDOWS = int(os.environ.get("NOTEBOOK_WINDOWS", "32"))
STEPS = int(os.environ.get("NOTEBOOK_STEPS", "128"))
TINY = Path(elsa.__file__).parent / "model/tiny"
_, tokenizer = elsa.load(TINY)
IDS = tokenizer(inspect.getsource(doctest), return_tensors="pt")["input_ids"][:, : 8 * 256].view(8, 256)


def perplexity(model):
    """On a module of the standard library that the model was not trained on."""
    with torch.no_grad():
        return float(model(input_ids=IDS, labels=IDS).loss.exp())


# %% [markdown]
# ## Layer by layer
#
# Three verbs: an empty statistic of a layer's inputs, how a batch is added to it, and the pruned weight. The driver
# does the rest: it runs block after block, collects what reaches each layer, and lets the pruned block feed the next.
#
# This one is Wanda with the mean of |x| in the place of its norm, and a power of it.


# %%
@dataclass(frozen=True, kw_only=True)
class Ranked(LayerwiseMethod):
    """Keep the largest |W_oi| · (mean |x_i|)^power of every output row."""

    power: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        require(self.power >= 0, "power", self.power, "0 (magnitude) or more")

    def init_statistics(self, weight_OI):
        return torch.zeros(weight_OI.shape[1], device=weight_OI.device)

    def update_statistics(self, statistics, inputs_TI):
        statistics += inputs_TI.abs().sum(0)  # in place

    def prepare(self, statistics):
        return (statistics / statistics.mean()).pow(self.power)

    def prune(self, weight_OI, prepared, pattern):
        return weight_OI * pattern.mask_rows(weight_OI.abs() * prepared)


for power in (0.0, 0.5, 1.0):
    model, _ = elsa.load(TINY)
    elsa.prune_model(model, tokenizer, Ranked(power=power, calibration_windows=WINDOWS), 0.5)
    print(f"power {power}: perplexity {perplexity(model):.2f}")

# %% [markdown]
# A value that cannot work is refused when the method is built, in one line.

# %%
try:
    Ranked(power=-1)
except elsa.UserError as error:
    print(error)

# %% [markdown]
# ## With training
#
# A method that trains hands a *constraint* to `elsa.train.train.train`, which owns the loop. The constraint may
# change a gradient before the step, change weights after it, and must leave the weights as promised at the end.
#
# This one draws all weights to 0 by a constant force (the gradient of the L1 norm), and keeps the largest at the end.


# %%
class Shrinking(NoConstraint):
    def __init__(self, weights, pattern, force):
        self.weights, self.pattern, self.force = weights, pattern, force
        self.by_parameter = {weight.parameter_name: weight for weight in weights.values()}

    @torch.no_grad()
    def on_gradient(self, name):
        weight = self.by_parameter.get(name)
        if weight is not None:
            weight.gradient_OI.add_(weight.value_OI.sign(), alpha=self.force)

    @torch.no_grad()
    def finish(self):
        for weight in self.weights.values():
            weight.write(project(weight.value_OI, self.pattern))
        return {}


@dataclass(frozen=True, kw_only=True)
class Shrunk(Method):
    """Train under an L1 force, then keep the largest weights."""

    force: float = 1e-4

    @property
    def trains(self):
        return True

    def apply(self, model, task):
        weights = prunable_weights(model)
        return train(model, lambda optimizer: Shrinking(weights, task.pattern, self.force), task)


# %%
budget = elsa.methods.Training(steps=STEPS, batch_size=2, learning_rate=1e-3, autocast="none")
for method in (Shrunk(force=1e-3), elsa.methods.Elsa(interval=max(1, STEPS // 32))):
    model, _ = elsa.load(TINY)
    facts = elsa.prune_model(model, tokenizer, method, 0.8, training=budget)
    share = sum(facts["zeros"].values()) / len(facts["zeros"])
    print(f"{type(method).__name__}: {share:.1%} zeros, perplexity {perplexity(model):.2f}")
