"""The model card: a function of a run's record and of what its export says. Every number on it is one of theirs."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from elsa.files import flattened
from elsa.record.record import Record, task_protocol
from elsa.record.scores import GENERATION_COLUMNS, TASK_SCORES, against_dense, generation_rows
from elsa.sparsity.pattern import Pattern

METHODS: dict[str, tuple[str, str | None]] = {  # as docs/guides/methods.md has them: what it does, its paper
    "magnitude": ("keeps the largest weights of a layer", None),
    "wanda": ("keeps the largest weights of a layer, weighed by the norm of their inputs", "2306.11695"),
    "sparsegpt": ("prunes column by column and repairs the rest", "2301.00774"),
    "alps": ("ADMM on each layer, then conjugate gradients on its support", "2406.07831"),
    "l_admm": ("ADMM on each layer with a gradual mask", "2401.02938"),
    "safe": ("sharpness-aware ADMM on each block's output error", "2506.06866"),
    "sparsellm": ("prunes each feed-forward part as a whole, through auxiliary activations", "2402.17946"),
    "swaps": ("exchanges kept and pruned weights of a row while the layer's error falls", "2512.10922"),
    "reconstruct": ("trains what is kept on the dense outputs, one sub-block at a time", "2510.14444"),
    "finetuned": ("trains the weights that are left, on the language-model loss", None),
    "elsa": ("surrogate-free ADMM on the language-model loss, with objective-aware projection", "2510.01650"),
    "best": ("prunes gradually by one threshold for all layers, and then trains within the mask", "2609.06557"),
    "elsa_plus": ("prunes gradually from another method's solution, and then trains within the support", None),
}
INT8 = "int8"
OF_THE_HUB = {"HubText": "repository", "HubStream": "name", "HubChat": "name"}  # the field that names the data set
_HUGE = 1e12
_TASK = "text-generation"
_OF_A_TASK = ("acc", "acc_norm", "n", "version", "num_fewshot", "data_sha256")  # the rest are metrics of its own
_FORMULAS = {
    "standard": "exp of the mean loss of the scored tokens, all but the first of a window",
    "official": "exp of their summed loss over all tokens of a window, the first one too, which reads slightly lower",
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a card is of. `record`, `export`: as they are published; None for a model that is no export.

    `sparse`: the folder is in this package's format. What was scored on the folder itself is in `export.evaluations`.
    `loader`: the class of transformers that loads it.
    """

    repo: str
    base_model: str
    license: str
    record: Record
    export: dict[str, Any] | None
    sparse: bool
    loader: str = "AutoModelForCausalLM"

    @property
    def name(self) -> str:
        return self.repo.rpartition("/")[2]

    @property
    def pruned(self) -> bool:
        return bool(self.record["pattern"] != "dense")

    @property
    def base_is_recorded(self) -> bool:
        """Whether the record itself names the base model, and not whoever publishes it."""
        return bool(self.record["config"]["model"].get("path") == self.base_model)

    @property
    def dtypes(self) -> tuple[str | None, str | None]:
        """That of the values as the run left them, and that of this folder."""
        left = self.record.get("dtype")
        return left, left if self.export is None else self.export["dtype"]


class Scored(NamedTuple):
    """The evaluations that stand for the folder. `before`: they are of the model before it was cast."""

    evaluations: list[dict[str, Any]]
    before: bool


def card(about: Published) -> ModelCard:
    """The whole README.md."""
    results = eval_results(about)
    data = ModelCardData(
        base_model=about.base_model, license=about.license, library_name="transformers", pipeline_tag=_TASK,
        tags=_tags(about), datasets=_datasets(about.record), model_name=about.name if results else None,
        metrics=sorted({each.metric_type for each in results}) or None, eval_results=results or None,
    )  # fmt: skip
    sections = [_head(about), _use(about), _scores(about), _size(about), _made(about), _again(about), _limits(about)]
    text = "\n\n".join([*filter(None, sections), _papers(about)])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def eval_results(about: Published) -> list[EvalResult]:
    """The scores as the hub's `model-index` has them; none for int8 values unless they were scored themselves.

    The protocol is in the name and the arguments of each metric, since the library keeps those of a data set only once.
    """
    scored = _scored(about)
    if scored.before and about.dtypes[1] == INT8:
        return []
    cast = f", before the cast to {about.dtypes[1]}" if scored.before else ""
    found = [
        result
        for evaluation in scored.evaluations
        for result in (*_perplexities(evaluation, cast), *_accuracies(evaluation, cast), *_written(evaluation, cast))
        if math.isfinite(result.metric_value)
    ]
    first = {result.unique_identifier: number for number, result in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda result: first[result.unique_identifier])


def _perplexities(evaluation: dict[str, Any], cast: str) -> Iterator[EvalResult]:
    for name, score in evaluation.get("perplexity", {}).items():
        repository = _repository(_sets(evaluation).get(name))
        protocol = f"{score['windows']} windows of {score['length']} tokens, {score['formula']} formula"
        arguments = {key: value for key, value in score.items() if key not in ("perplexity", "loss")}
        yield EvalResult(
            task_type=_TASK, dataset_type=repository or name, dataset_name=repository or name,
            dataset_split=score["split"], metric_type="perplexity", metric_value=round(float(score["perplexity"]), 4),
            metric_name=f"perplexity of {name} ({protocol}{cast})", metric_args=arguments,
        )  # fmt: skip


def _accuracies(evaluation: dict[str, Any], cast: str) -> Iterator[EvalResult]:
    scores = evaluation.get("zero_shot")
    if not scores:
        return
    for name, task in scores["tasks"].items():
        protocol = f"{task['num_fewshot']}-shot, lm-eval {scores['lm_eval']}{_of_how_many(scores)}{cast}"
        arguments = {key: task[key] for key in ("num_fewshot", "n", "data_sha256")} | {"limit": scores["limit"]}
        known = {metric: task[metric] for metric in ("acc", "acc_norm") if metric in task}
        for metric, value in (known | _other_metrics(task)).items():
            kind = "accuracy" if metric == "acc" else metric
            yield _of_task(name, kind, f"{metric} ({protocol})", value, arguments)


def _written(evaluation: dict[str, Any], cast: str) -> Iterator[EvalResult]:
    """Every metric of every task of generation."""
    scores = evaluation.get("generation")
    if not scores:
        return
    for name, task in scores["tasks"].items():
        protocol = f"{task['num_fewshot']}-shot, at most {task['max_new_tokens']} tokens, lm-eval {scores['lm_eval']}"
        protocol += f"{_of_how_many(scores)}{cast}"
        arguments = {key: task[key] for key in ("num_fewshot", "max_new_tokens", "n", "data_sha256")}
        for metric, found in task["metrics"].items():
            kind = metric.partition(",")[0]
            yield _of_task(name, kind, f"{metric} ({protocol})", found["value"], arguments | scores["settings"])


def _of_how_many(scores: dict[str, Any]) -> str:
    return f", the first {scores['limit']} documents only" if scores["limit"] else ""


def _of_task(task: str, kind: str, name: str, value: float, arguments: dict[str, Any]) -> EvalResult:
    """A metric of one of lm-eval's tasks."""
    return EvalResult(
        task_type=_TASK, dataset_type=task, dataset_name=task, metric_type=kind, metric_name=name,
        metric_value=round(float(value), 4),
        metric_args={key: each for key, each in arguments.items() if each is not None},
    )  # fmt: skip


def _scored(about: Published) -> Scored:
    own = [] if about.export is None else about.export.get("evaluations", [])
    left, here = about.dtypes
    return Scored(_latest(own or about.record["evaluations"]), before=not own and left != here)


def _latest(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what a later one has scored in the same way."""
    seen, kept = set[str](), list[dict[str, Any]]()

    def is_new(*protocol: Any) -> bool:
        text = json.dumps(protocol, sort_keys=True)
        new = text not in seen
        seen.add(text)
        return new

    for each in reversed(evaluations):
        sets = {
            name: score
            for name, score in each.get("perplexity", {}).items()
            if is_new(name, {key: value for key, value in score.items() if key not in ("perplexity", "loss")})
        }
        again = [kind for kind in TASK_SCORES if kind in each and not is_new(kind, task_protocol(each[kind]))]
        dropped = [key for kind in again for key in (kind, against_dense(kind))]
        kept.insert(0, {key: value for key, value in each.items() if key not in dropped} | {"perplexity": sets})
    return kept


def _head(about: Published) -> str:
    record, sparsity = about.record, about.record["sparsity"]
    base = f"[{about.base_model}](https://huggingface.co/{about.base_model})"
    version = record["environment"]["libraries"].get("elsa") or ""
    by = f"with the Python package `elsa` {version} (the program of arXiv 2510.01650)"
    if about.pruned:
        coverage = record.get("coverage")
        lines = [
            f"{base}, pruned by {_methods(about)} {by}.",
            f"**{_count(sparsity['zeros'])} of its {_count(sparsity['numel'])} prunable weights are zero**: "
            f"{sparsity['counted']:.4%} as counted in the saved file, {record['pattern']} as asked.",
        ]
        if coverage:
            prunable, total = _count(coverage["prunable"]), _count(coverage["total"])
            lines[-1] += f" Prunable are {prunable} of the {total} weights of its decoder blocks."
        if of_blocks := sparsity.get("of_blocks"):
            lines[-1] += f" {_choice(record)}; of all block weights {of_blocks['counted']:.4%} are zero."
        lines[-1] += " Embeddings, norms, biases and the head are not pruned and not counted."
    else:
        lines = [f"{base}, trained on but not pruned, {by}: a model to compare pruned ones with."]
    lines.append("Every number here is from `record.json`" + ("" if about.export is None else " or `export.json`"))
    lines[-1] += " in this repository."
    if not about.base_is_recorded:
        lines.append(
            f"The record knows the base model as `{_code(record['model'])}`, by its files; that these are those of "
            "the model named here is stated by who published this."
        )
    return f"# {about.name}\n\n" + "\n\n".join(lines)


def _choice(record: Record) -> str:
    """Which weights were left out of the pruning, as it was asked for."""
    asked = {key: record["settings"].get(key) for key in ("include", "exclude")}
    globs = "; ".join(
        f"{key} {', '.join(f'`{_code(glob)}`' for glob in given)}" for key, given in asked.items() if given
    )
    return f"Left out on purpose were {len(record['coverage']['left_out'])} matrices ({globs})"


def _use(about: Published) -> str:
    lines = [f"from transformers import {about.loader}, AutoTokenizer", ""]
    if about.sparse:
        lines.insert(0, "import elsa.export  # lets transformers read the sparse format; without it, loading fails")
    lines += [f'{name} = {kind}.from_pretrained("{about.repo}")' for name, kind in (
        ("model", about.loader), ("tokenizer", "AutoTokenizer"),
    )]  # fmt: skip
    needs = "With the package `elsa`, which reads the sparse format:" if about.sparse else "With `transformers` alone:"
    return "\n".join(["## Use", "", needs, "", "```python", *lines, "```"])


def _scores(about: Published) -> str:
    scored = _scored(about)
    parts = ["## Scores"]
    left, here = about.dtypes
    if scored.before:
        was = "" if left is None else f" in {left}"
        parts.append(
            f"**Of the model as the run saved it{was}, before its values were cast to {here}.** What is in this "
            "repository was not scored itself."
        )
    elif about.export is not None and about.export.get("evaluations"):
        parts.append(f"Of the values in this repository, {here}.")
    parts += [_perplexity_table(scored.evaluations)]
    parts += [_zero_shot_table(each) for each in scored.evaluations if each.get("zero_shot")]
    parts += [_generation_table(each) for each in scored.evaluations if each.get("generation")]
    return "\n\n".join(filter(None, parts))


def _perplexity_table(evaluations: list[dict[str, Any]]) -> str:
    rows, formulas = [], dict[str, None]()
    for evaluation in evaluations:
        for name, score in evaluation.get("perplexity", {}).items():
            drawn = score.get("draw", "")
            formulas[score["formula"]] = None
            row = [name, _source(_sets(evaluation).get(name), score["split"]), _perplexity(float(score["perplexity"]))]
            row += [score["split"], f"{_count(score['windows'])} × {_count(score['length'])}"]
            rows.append([*row, drawn, score["formula"], score["autocast"]])
    if not rows:
        return ""
    headers = ["set", "text", "perplexity", "split", "windows × tokens", "windows drawn", "formula", "autocast"]
    said = [f"`{formula}`: {_FORMULAS[formula]}." for formula in formulas if formula in _FORMULAS]
    return "\n\n".join([_table(headers, rows, numbers={"perplexity"}), " ".join(said)])


def _zero_shot_table(evaluation: dict[str, Any]) -> str:
    scores, pairs = evaluation["zero_shot"], evaluation.get("zero_shot_against_dense", {})
    others = any(_other_metrics(task) for task in scores["tasks"].values())
    headers = ["task", "acc", "acc_norm", "shots", "documents"]
    headers += ["against the dense model", "answers lost, gained"] if pairs else []
    headers += ["other metrics"] if others else []
    rows = []
    for name, task in scores["tasks"].items():
        row = [name, _with_error(task, "acc"), _with_error(task, "acc_norm")]
        row += [str(task["num_fewshot"]), _count(task["n"])]
        if pairs:
            pair = pairs.get(name)
            change = f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]" if pair else ""
            row += [change, f"{_count(pair['lost'])}, {_count(pair['gained'])}" if pair else ""]
        rows.append(row + ([", ".join(f"{k} {v:.4g}" for k, v in _other_metrics(task).items())] if others else []))
    said = f"Scored by lm-eval {scores['lm_eval']} in {scores['dtype']}, ± standard error"
    if scores["average_acc"] is not None:
        said += f"; acc {scores['average_acc']:.4f} on average"
    if pairs:
        said += "; the difference to the dense model on the same documents with its 95 % interval"
    table = _table(headers, rows, numbers={"acc", "acc_norm", "shots", "documents"})
    return "\n\n".join([*_limited(scores), f"{said}.", table])


def _generation_table(evaluation: dict[str, Any]) -> str:
    scores, pairs = evaluation["generation"], evaluation.get(against_dense("generation"), {})
    said = f"What it writes, scored by lm-eval {scores['lm_eval']} in {scores['dtype']}, ± standard error"
    said += ", in its chat template" if scores["settings"].get("apply_chat_template") else ""
    if pairs:
        said += "; in brackets the difference to the dense model on the same documents with its 95 % interval"
    table = _table(list(GENERATION_COLUMNS), generation_rows(scores, pairs), numbers={"n", "shots"})
    return "\n\n".join([*_limited(scores), f"{said}.", table])


def _limited(scores: dict[str, Any]) -> list[str]:
    if not scores["limit"]:
        return []
    limited = f"**Limited: only the first {_count(scores['limit'])} documents of each task were scored.**"
    return [f"{limited} These are no numbers to compare with those of whole tasks."]


def _size(about: Published) -> str:
    export = about.export
    if export is None:
        return ""
    size, ratio, zeros = export["bytes"], export["ratio"], export["zeros"]
    rows = [["this repository", _count(size["total"]), ""]]
    if about.sparse:
        rows.append([f"the same values, dense in {export['dtype']}", _count(size["dense"]), f"{ratio['of_dense']:.3f}"])
    rows.append(["the model as the run saved it", _count(size["source"]), f"{ratio['of_source']:.3f}"])
    said = f"The cast to {export['dtype']} left {_count(zeros['after'])} of {_count(zeros['numel'])} prunable weights "
    said += f"zero, which were {_count(zeros['before'])} before."
    if about.sparse:
        said += f" The pruned matrices alone take {ratio['matrices_of_dense']:.3f} of what they take dense."
    table = _table(["weights of", "bytes", "this repository, of that"], rows, numbers={"bytes"})
    return "\n\n".join(["## Size", table, said])


def _made(about: Published) -> str:
    record = about.record
    facts, environment = record["facts"], record["environment"]
    rows: list[list[str]] = [["method", record["method"]], ["pattern", record["pattern"]], ["seed", record["seed"]]]
    if about.pruned:
        rows.append(["allocation", Pattern.allocation_of(record["pattern"])])
    rows += [[f"{kind} tokens", _count(facts[f"{kind}_tokens"])] for kind in ("calibration", "training")
             if f"{kind}_tokens" in facts]  # fmt: skip
    rows.append(["seconds of pruning, training included", f"{record['seconds']['prune']:,.1f}"])
    rows.append(["peak memory", f"{record['peak_memory_bytes'] / 2**30:.2f} GiB"])
    gpu, cpu, threads = (environment.get(key) for key in ("gpu", "cpu", "threads"))
    devices = f"{record.get('devices', 1)} × "
    rows.append(["device", f"{devices}{gpu['name']}" if gpu else f"{devices}{record.get('device', 'cpu')}"])
    rows += [[name, value] for name, value in (("processor", cpu), ("threads", threads)) if value is not None]
    versions = ", ".join(f"{name} {version}" for name, version in environment["libraries"].items() if version)
    rows.append(["versions", f"python {environment.get('python', '')}, {versions}"])
    rows += [[f"`{_code(key)}`", _setting(value)] for key, value in flattened(record["settings"]).items()]
    return "\n\n".join(["## How it was made", _table(["", ""], rows)])


def _again(about: Published) -> str:
    commands = [f"hf download {about.repo} record.json --local-dir .", "elsa reproduce record=record.json"]
    if about.export is not None:
        form, _, dtype = about.export["name"].partition("-")
        commands.append(f"elsa export checkpoint=outputs/reproductions/runs/<run> export={form} dtype={dtype}")
    said = ["`record.json` holds every setting. This makes the model again and says whether the bits are the same:"]
    said.append("\n".join(["```bash", *commands, "```"]))
    local = local_names(about.record, about.base_model)
    if local:
        names = ", ".join(f"`{_code(name)}`" for name in local)
        said.append(f"The record names these by their name alone, and they have to lie in the current folder: {names}.")
    said.append("Other processors, numbers of threads or versions move the last bits.")
    return "\n\n".join(["## Make it again", *said])


def _limits(about: Published) -> str:
    scored = _scored(about)
    measured = {kind for each in scored.evaluations for kind in ("perplexity", *TASK_SCORES) if each.get(kind)}
    words = {"perplexity": "perplexity on the sets above", "zero_shot": "accuracy on the tasks above"}
    words["generation"] = "answers to the questions above"
    lines = [
        f"Measured was only {' and '.join(words[kind] for kind in sorted(measured)) or 'its size'}: not the quality of "
        "what it writes, whether it follows instructions, what it knows, bias or safety. Pruning can lose more than "
        "these scores show.",
        "It inherits the limits and biases of the base model.",
    ]
    if not any(each.get(against_dense(kind)) for each in scored.evaluations for kind in TASK_SCORES):
        lines.append("Its record holds no score of the dense model; score that in the same way before you compare.")
    if any((each.get(kind) or {}).get("limit") for each in scored.evaluations for kind in TASK_SCORES):
        lines.append("The accuracies are limited: only the first documents of each task were scored.")
    if scored.before:
        lines.append(f"The scores are of the values before the cast to {about.dtypes[1]}.")
    lines.append("It is one run with one seed: how far others would be from it is not known from this record.")
    if about.sparse:
        lines.append(
            "transformers alone, vLLM, llama.cpp and others cannot read it: without `import elsa.export` loading is an "
            "error, never a model with random weights. For these programs it has to be exported dense."
        )
    elif about.pruned:
        lines.append("The zeros are stored like any value, so it is as large and as slow as a dense model.")
    lines.append(f"The licence, {about.license}, is that of the base model as who published this states it.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _papers(about: Published) -> str:
    papers = [(name, METHODS[name][1]) for name in _names(about.record) if name in METHODS]
    lines = [f"- `{name}`: [arXiv {paper}](https://arxiv.org/abs/{paper})" for name, paper in papers if paper]
    return "\n\n".join(["## Papers", "\n".join(lines)]) if lines else ""


def _names(record: Record) -> list[str]:
    """The methods that made it, first to last: of "alps+finetuned" both, and what another one starts from."""
    start = (record["config"].get("method") or {}).get("start") or {}
    first = str(start.get("_target_", "")).split(".")[-2:-1]
    return [name for name in dict.fromkeys([*first, *record["method"].split("+")]) if name != "dense"]


def _methods(about: Published) -> str:
    what = {name: f" ({words})" for name, (words, _) in METHODS.items()}
    return ", then ".join(f"`{_code(name)}`{what.get(name, '')}" for name in _names(about.record))


def _tags(about: Published) -> list[str]:
    return [*(["pruning", "sparse"] if about.pruned else []), "elsa", *_names(about.record)]


def _datasets(record: Record) -> list[str] | None:
    """What it was calibrated or trained on, if the hub has it."""
    repository = _repository(record["config"].get("data")) if record.get("data_sha256") else None
    return None if repository is None else [repository]


def _sets(evaluation: dict[str, Any]) -> dict[str, Any]:
    """{name of a set: where its text comes from}."""
    config = evaluation.get("config")
    parts = [config, *config.get("parts", {}).values()] if isinstance(config, dict) else []
    return {name: source for part in parts for name, source in part.get("sets", {}).items()}


def class_of(node: Any) -> str:
    """The class that a part of a config is of: "Text"."""
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""


def _repository(source: Any) -> str | None:
    key = OF_THE_HUB.get(class_of(source))
    return None if key is None else source[key]


def _source(source: Any, split: str) -> str:
    """Where the text of a set comes from."""
    kind = class_of(source)
    if kind == "HubText":
        return f"{source['repository']}, {source.get(split, '')} at {source['revision'][:12]}"
    if kind in OF_THE_HUB:
        parts = [source["name"], source.get("subset"), source.get(split) or f"a part of {source['train']}"]
        return ", ".join(part for part in parts if part)
    if kind in ("Text", "Chat"):
        return _setting(source.get(split) or source.get("train"))
    return {"Stdlib": "Python standard library", "Tokens": str((source or {}).get("path"))}.get(kind, kind)


def local_names(record: Record, base_model: str) -> list[str]:
    """Files and folders that the run read from its own machine."""
    found: dict[str, None] = {}

    def look(node: Any) -> None:
        if isinstance(node, list):
            for each in node:
                look(each)
        if not isinstance(node, dict):
            return
        kind = class_of(node)
        if kind in ("Pretrained", "Tokens") and node.get("path") != base_model:
            found[str(node.get("path"))] = None
        if kind in ("Text", "Chat"):
            named = [each for split in ("train", "validation", "test") for each in node.get(split) or []]
            found.update(dict.fromkeys(map(str, named)))
        for value in node.values():
            look(value)

    look([record["config"], [each.get("config") for each in record["evaluations"][:1]]])
    return list(found)


def _other_metrics(task: dict[str, Any]) -> dict[str, float]:
    named = (item for item in task.items() if item[0] not in _OF_A_TASK and not item[0].endswith("_stderr"))
    return {name: value for name, value in named if isinstance(value, (int, float))}


def _with_error(task: dict[str, Any], metric: str) -> str:
    return f"{task[metric]:.3f} ± {task[f'{metric}_stderr']:.3f}" if f"{metric}_stderr" in task else ""


def _perplexity(value: float) -> str:
    return f"{value:,.2f}" if value < _HUGE else f"{value:.3g}"


def _count(number: int) -> str:
    return f"{number:,}"


def _setting(value: Any) -> str:
    words = value if isinstance(value, list) else [value]
    said = ", ".join("null" if word is None else str(word) for word in words)
    return said.replace("*", r"\*")  # of a glob


def _table(headers: list[str], rows: list[list[Any]], numbers: frozenset[str] | set[str] = frozenset()) -> str:
    """Markdown. `numbers`: columns to align right. Columns that are empty in every row are left out."""
    kept = [n for n, header in enumerate(headers) if not header or any(str(row[n]) for row in rows)]
    lines = [[headers[n] for n in kept], ["---:" if headers[n] in numbers else "---" for n in kept]]
    lines += [[_cell(row[n]) for n in kept] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Names come from a record, which anyone may have written: no cell ends early and none is HTML."""
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())
