"""`elsa evaluate checkpoint=<folder>`: score a saved model on named held-out windows."""

from pathlib import Path

from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import check_evaluate
from elsa.config.compose import plain
from elsa.config.prune import EvaluateConfig, resolved_device
from elsa.data.windows import WindowReader
from elsa.evaluate.evaluation import Subject
from elsa.files import content_hash, file_hash, write_json
from elsa.model.loading import Pretrained
from elsa.report.record import environment
from elsa.report.table import print_zero_shot


def evaluate(composed: DictConfig) -> None:
    """Load, evaluate, print, and write a record beside the other outputs."""
    config = plain(composed)
    run = build(EvaluateConfig, config)
    hub.use_mirror(run.paths.mirror)
    check_evaluate(run)
    source = Pretrained(
        name=run.checkpoint, path=str(run.model_folder), revision=None, dtype=run.dtype,
        begin_with_bos=run.begin_with_bos,
    )  # fmt: skip
    source.check()
    cache = Path(run.paths.cache)
    model, tokenizer = source.load(cache, resolved_device(run.device))
    reader = WindowReader(tokenizer=tokenizer, cache=cache, begin_with_bos=run.begin_with_bos)
    prepared = run.eval.prepare(reader)
    scores = run.eval.evaluate(Subject(model=model, tokenizer=tokenizer, cache=cache), prepared)
    weights = {path.name: file_hash(path) for path in sorted(run.model_folder.glob("*.safetensors"))}
    record = {"weights_sha256": weights} | scores | {"config": config, "environment": environment()}
    path = Path(run.paths.outputs) / "evaluations" / f"{content_hash([weights, scores])}.json"
    write_json(path, record)
    for name, score in scores.get("perplexity", {}).items():
        print(f"{name}: perplexity {score['perplexity']:.4f} ({score['windows']} windows of {score['length']} tokens)")
    if "zero_shot" in scores:
        print_zero_shot([scores])
    print(f"record {path}")
