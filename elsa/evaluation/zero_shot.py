"""Zero-shot and few-shot scores by lm-eval's own task definitions, for tasks that compare likelihoods."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from elsa.evaluation.base import Subject, standard_error
from elsa.evaluation.harness import Harness, compact
from elsa.evaluation.tasks import quiet

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_ACCURACIES = ("acc", "acc_norm")


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Harness):
    """Each metric of the tasks, accuracies with standard errors, and their average.

    Tasks without an accuracy, such as rolling perplexities, are no part of the average.
    """

    kind: ClassVar[str] = "zero_shot"
    num_fewshot: int = 0

    def _score(self, subject: Subject, name: str, task: "Task", protocol: dict[str, Any]) -> dict[str, Any]:
        with quiet():
            from lm_eval.models.huggingface import HFLM

            model = HFLM(pretrained=subject.model.eval(), tokenizer=subject.tokenizer, batch_size=self.batch_size)
            results = self._asked(model, task)
        scores = {"n": self._count(task)} | {key: protocol[key] for key in ("version", "num_fewshot", "data_sha256")}
        samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
        for key, value in results["results"][name].items():
            metric, _, kind = key.partition(",")
            if kind == "none" and isinstance(value, (int, float)):
                scores[metric] = value
        for metric in _ACCURACIES:
            if metric in scores:
                scores[f"{metric}_stderr"] = standard_error([float(sample[metric]) for sample in samples])
        if "acc" not in scores:
            return {"scores": scores, "items": None}
        # 0 or 1, or a share where several answers are right
        return {"scores": scores, "items": compact([float(sample["acc"]) for sample in samples])}
