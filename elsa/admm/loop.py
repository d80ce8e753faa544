"""The training loop of every method that trains: next-token loss of the whole model, under a constraint.

Order of a step: gradient of the loss (bf16 autocast over fp32 weights), clipping to a global norm, the constraint's
own gradient (never clipped), the optimiser, the constraint's update. Nothing waits for the device but for the report.

Shapes: N windows of L tokens (`windows_NL`).
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from elsa.errors import UserError, require
from elsa.track.progress import progress

_REPORT_EVERY = 32  # steps between two lines of metrics where the constraint has no interval of its own


@dataclass(frozen=True, kw_only=True)
class Training:
    """Budget and optimiser of every method that trains.

    `batch_size`: windows a step; with `accumulation` they go through the model in parts. `decay_fraction`: the share
    of the steps, at the end, in which the learning rate falls linearly to 0 (1.0: from the first step, as in the
    paper). `gradient_clip`: largest global norm of the loss's gradient. `optimizer`: adam, or sgd with momentum beta1.
    """

    steps: int
    batch_size: int
    accumulation: int
    optimizer: str
    learning_rate: float
    warmup_steps: int
    decay_fraction: float
    beta1: float
    beta2: float
    gradient_clip: float
    autocast: str

    def __post_init__(self):
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        divides = self.accumulation >= 1 and self.batch_size % self.accumulation == 0
        require(divides, "accumulation", self.accumulation, f"a divisor of batch_size={self.batch_size}")
        require(self.optimizer in ("adam", "sgd"), "optimizer", self.optimizer, "known: adam, sgd")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive, for example 2e-4")
        warm = 0 <= self.warmup_steps < self.steps
        require(warm, "warmup_steps", self.warmup_steps, f"from 0 to below steps={self.steps}")
        require(0 <= self.decay_fraction <= 1, "decay_fraction", self.decay_fraction, "a share of the steps, 0 to 1")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "in [0, 1), for example 0.9")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "in [0, 1), for example 0.95")
        require(self.gradient_clip > 0, "gradient_clip", self.gradient_clip, "positive, for example 1.0")
        require(self.autocast in ("bfloat16", "none"), "autocast", self.autocast, "known: bfloat16, none")

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of all trainable parameters, at one learning rate, without weight decay."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.beta1)
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=betas, fused=True)

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 0 … steps − 1: linear warm-up, plateau, linear decay that would reach 0 at `steps`."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        decay_steps = self.decay_fraction * self.steps
        decay = min(1.0, (self.steps - step) / decay_steps) if decay_steps else 1.0
        return self.learning_rate * min(warm, decay)


class Constraint(Protocol):
    """What a method adds to plain training."""

    interval: int | None

    def add_gradient(self) -> None:
        """Called between clipping and the optimiser's step."""

    def after_step(self, step: int) -> dict:
        """Called after the optimiser's step number `step` (from 1). Returns metrics when it has any."""


class NoConstraint:
    """Plain fine-tuning."""

    interval = None

    def add_gradient(self) -> None:
        pass

    def after_step(self, step: int) -> dict:
        return {}

    def check(self) -> None:
        """Nothing is promised, so nothing is checked."""


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    windows_NL: torch.Tensor,
    training: Training,
    constraint: Constraint,
    log: Callable[[int, dict], None],
) -> None:
    """Train `model` in place on steps · batch_size windows, taken in order. `log(step, metrics)` at every interval.

    Raises `UserError` when the loss stops being a number.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device
    was_training = model.training
    model.train()
    every = constraint.interval or _REPORT_EVERY
    losses, since = [], time.perf_counter()
    for step in progress(range(1, training.steps + 1), "train", unit="step"):
        rate = training.learning_rate_at(step - 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = windows_NL[(step - 1) * training.batch_size : step * training.batch_size]
        losses.append(_backward(model, batch, training, device))
        nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        constraint.add_gradient()
        optimizer.step()
        optimizer.zero_grad()
        metrics = constraint.after_step(step)
        if step % every == 0 or step == training.steps:
            loss = torch.stack(losses).mean().item()
            if loss != loss:
                raise UserError(
                    f"method.learning_rate={training.learning_rate}: the loss is NaN at step {step}; try a lower rate"
                )
            now = time.perf_counter()
            rate_of_tokens = len(losses) * batch.numel() / (now - since)
            log(step, {"loss": loss, "learning_rate": rate, "tokens_per_second": rate_of_tokens} | metrics)
            losses, since = [], now
    model.train(was_training)


def _backward(model: nn.Module, batch_NL: torch.Tensor, training: Training, device: torch.device) -> torch.Tensor:
    """Accumulate the gradient of the mean next-token loss; return that loss, detached, still on the device."""
    total = torch.zeros((), device=device)
    for part in batch_NL.chunk(training.accumulation):
        ids = part.to(device, torch.long)
        with _autocast(training, device):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        (loss / training.accumulation).backward()
        total += loss.detach() / training.accumulation
    return total


def _autocast(training: Training, device: torch.device) -> AbstractContextManager:
    return nullcontext() if training.autocast == "none" else torch.autocast(device.type, dtype=torch.bfloat16)
