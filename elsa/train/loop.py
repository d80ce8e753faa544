"""The training loop of every method that trains: next-token loss of the whole model, under a constraint.

Order of a step: gradient of the loss (bf16 autocast), clipping to a global norm, the constraint's own gradient (never
clipped), the optimiser, the constraint's update. Nothing waits for the device but for the report. On several ranks each
does so with its parts of the windows and its rows of the weights.

Shapes: N windows of L tokens (`windows_NL`).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from elsa.distributed.sharding import local, spread_as
from elsa.errors import UserError
from elsa.track.progress import progress
from elsa.train.constraint import Constraint
from elsa.train.loss import Call, direct, next_token_loss, prove_chunks
from elsa.train.optimizer import Optimizer
from elsa.train.parts import Parts
from elsa.train.probe import due, losses_on
from elsa.train.release import releasing
from elsa.train.task import Checkpoints, TrainingTask

_HOPELESS = 20.0  # nats a token; a uniform guess over 256,000 words has 12.5
_REPORT_EVERY = 32  # steps between two lines of metrics where the constraint has no interval of its own


class Loop:
    """One training run. `facts`: whatever else the run must not lose; a resumed run has those of its first part. The
    loop adds the metrics of the last step to them, as `last`. `teacher`: the dense model, needed for distillation.
    `call`: reaches a model that is spread over ranks; None for one that is whole. `row_dims`: as of `Spread`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        constraint: Constraint,
        task: TrainingTask,
        teacher: nn.Module | None = None,
        facts: dict[str, Any] | None = None,
        call: Call | None = None,
        row_dims: Mapping[str, int] | None = None,
    ):
        self._model, self._optimizer, self._constraint, self._task = model, optimizer, constraint, task
        self._training, self._precision, self._teacher = task.training, task.precision, teacher
        self._call = call or direct(model)
        self._parts = Parts(task.training, task.ranks, row_dims)
        self._device = optimizer.device
        self._losses: list[torch.Tensor] = []
        self._squares = self._parts.squares()  # of released gradients
        self._clip: torch.Tensor | None = None  # what released gradients are multiplied with
        self._first_loss: torch.Tensor | None = None
        self.facts = facts or {}

    def run(self, windows_NL: torch.Tensor) -> None:
        """Train on steps · batch_size windows, taken in order; log at every interval of the constraint.

        Raises `UserError` when the loss diverges or stops being a number; no such state is saved.
        """
        training, checkpoints, probe_every = self._training, self._task.checkpoints, self._task.probe_every
        if self._device.type == "cuda" and torch.cuda.is_available():
            windows_NL = windows_NL.pin_memory()  # so that no copy of a batch waits for the device
        saved = checkpoints.latest()
        done = 0 if saved is None else self._restore(saved)
        del saved
        if self._precision.loss_chunk is not None:
            prove_chunks(self._model, self._call, windows_NL[:1].to(self._device))
        every, since = self._constraint.interval or _REPORT_EVERY, time.perf_counter()
        probe_NL = windows_NL[-training.batch_size :]
        released = self._optimizer.parameters if self._precision.gradient_release else {}
        with releasing(released, self._release), checkpoints.listening():
            for step in progress(range(done + 1, training.steps + 1), "train", unit="step"):
                batch = windows_NL[(step - 1) * training.batch_size : step * training.batch_size]
                self._optimizer.set_rate(training.learning_rate_at(step - 1))
                self._losses.append(self._step(step, batch))
                self._first_loss = self._losses[0] if self._first_loss is None else self._first_loss
                reported = step % every == 0 or step == training.steps
                metrics = self._report(step, checkpoints) if reported else {}
                metrics |= self._constraint.after_step(step)
                if reported:
                    if due(step, probe_every, every) or (probe_every and step == training.steps):
                        metrics |= self._probe(probe_NL)
                    if step == training.steps:
                        self.facts["last"] = metrics
                    speed = (step - done) * batch.numel() / (time.perf_counter() - since)
                    self._task.log(step, metrics | {"tokens_per_second": speed})
                    done, since = step, time.perf_counter()
                if checkpoints.due():
                    self._refuse_divergence(step, checkpoints)
                    checkpoints.save(step, self._state(step))

    def _step(self, step: int, batch_NL: torch.Tensor) -> torch.Tensor:
        if self._precision.gradient_release:
            return self._step_releasing(step, batch_NL)
        loss = self._backward(step, batch_NL)
        self._parts.clip(self._optimizer.parameters)
        for name in self._optimizer.parameters:
            self._constraint.on_gradient(name)
        self._optimizer.step()
        return loss

    def _step_releasing(self, step: int, batch_NL: torch.Tensor) -> torch.Tensor:
        """A backward pass that updates as it goes. The first step is preceded by one that only measures the norm."""
        for _ in range(2 if self._clip is None else 1):
            self._squares = self._parts.squares()
            loss = self._backward(step, batch_NL)
            self._clip = self._squares.clipping_factor(self._training.gradient_clip)
        return loss

    def _release(self, name: str, gradient: torch.Tensor) -> None:
        self._squares.add(name, gradient)
        if self._clip is not None:
            local(gradient).mul_(self._clip)
            self._constraint.on_gradient(name)
            self._optimizer.step(name)

    def _backward(self, step: int, batch_NL: torch.Tensor) -> torch.Tensor:
        """Accumulate the gradient of the mean loss of the step's scored tokens; that loss, detached, on the device."""
        losses, sums = list[torch.Tensor](), self._parts.gathered()
        for number, (part, weight) in enumerate(self._weighted(batch_NL)):
            self._parts.seed(step, number)
            windows = part.to(self._device, non_blocking=True).long()
            with self._autocast():
                loss = weight * self._call(
                    next_token_loss,
                    windows,
                    self._precision.loss_chunk,
                    self._teacher,
                    self._training.distillation,
                    self._training.hidden_distillation,
                )
            (loss / self._parts.divisor).backward()
            losses.append(loss.detach())
            if sums is not None:
                sums.take(self._optimizer.parameters)
        if sums is not None:
            sums.give(self._optimizer.parameters)
        return self._parts.mean(torch.stack(losses))

    def _weighted(self, batch_NL: torch.Tensor) -> Iterator[tuple[torch.Tensor, float]]:
        """This rank's parts of a batch with their weights."""
        return zip(self._parts.mine(batch_NL), self._parts.weights(batch_NL), strict=True)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._training.autocast == "none":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)

    def _report(self, step: int, checkpoints: Checkpoints) -> dict[str, float]:
        loss = torch.stack(self._losses).mean().item()
        self._losses = []
        metrics = {"loss": loss, "learning_rate": self._training.learning_rate_at(step - 1)}
        self._refuse_divergence(step, checkpoints, **metrics)
        return metrics

    def _probe(self, batch_NL: torch.Tensor) -> dict[str, float]:
        """Cross-entropy f(x) and, where there is a sparse copy, f(z)."""
        sparse = self._constraint.sparse()
        losses = {"probe_loss": self._loss_on(batch_NL)}
        if sparse is not None:
            with sparse:
                losses["probe_loss_sparse"] = self._loss_on(batch_NL)
        return losses

    def _loss_on(self, batch_NL: torch.Tensor) -> float:
        parts = [part.to(self._device, torch.long) for part in self._parts.mine(batch_NL)]
        losses = losses_on(self._model, self._call, parts, self._autocast())
        return float(self._parts.mean(losses * torch.tensor(self._parts.weights(batch_NL), device=self._device)))

    def _refuse_divergence(self, step: int, checkpoints: Checkpoints, loss: float = 0.0, **others: float) -> None:
        """Raise `UserError` on broken weights, or a loss that has left all that a model can mean by it."""
        assert self._first_loss is not None, "a step has been done"
        limit = max(2 * float(self._first_loss), _HOPELESS)
        finite = torch.stack([local(each).isfinite().all() for each in self._optimizer.parameters.values()])
        broken = self._task.ranks.any(not finite.all())
        if loss <= limit and not broken:
            return
        numbers = "".join(f", {key} {value:.4g}" for key, value in others.items())
        raise UserError(
            f"training.learning_rate={self._training.learning_rate}: training diverged by step {step} (loss {loss:.4g}"
            f"{numbers}); try a lower rate or a lower penalty; {checkpoints.kept()}"
        )

    def _state(self, step: int) -> dict[str, Any]:
        """All that decides the rest of the run."""
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        random = {"cpu": torch.get_rng_state(), "cuda": cuda} if self._parts.alone else None
        return {
            "step": step, "model": self._model.state_dict(), "optimizer": self._optimizer.state(),
            "constraint": self._constraint.state(), "clip": self._clip, "losses": self._losses, "facts": self.facts,
            "first_loss": self._first_loss, "random": random,
        }  # fmt: skip

    def _restore(self, saved: dict[str, Any]) -> int:
        live = self._model.state_dict()
        self._model.load_state_dict({name: spread_as(saved["model"][name], tensor) for name, tensor in live.items()})
        self._optimizer.restore(saved["optimizer"])
        self._constraint.restore(saved["constraint"])
        self._clip, self._first_loss = (self._here(saved[key]) for key in ("clip", "first_loss"))
        self._losses, self.facts = [loss.to(self._device) for loss in saved["losses"]], saved["facts"]
        random = saved["random"]
        if random is not None:
            torch.set_rng_state(random["cpu"].cpu())
            if random["cuda"] is not None:
                torch.cuda.set_rng_state(random["cuda"].cpu(), self._device)
        return int(saved["step"])

    def _here(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(self._device)
