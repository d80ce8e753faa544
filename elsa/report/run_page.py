"""The page of one run: what it was, its scores, its curves, where its zeros are and how they moved, what it says."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from elsa.files import flattened
from elsa.record.record import Record, views
from elsa.record.scores import GENERATION_COLUMNS, generation_rows
from elsa.report.chart import heat
from elsa.report.grid import in_words
from elsa.report.page import LIBRARY, Html, address, cell
from elsa.report.picture import layers_picture, metric_pictures

Said = Sequence[tuple[str, Mapping[str, str]]]  # a prompt, and what each model said


def run_page(
    record: Record, page_folder: Path, folder: Path | None, lines: list[dict[str, float]],
    changes: dict[int, dict[str, float]], said: Said = (),
) -> str:  # fmt: skip
    """`record`: whole, with its evaluations. `folder`: of the run, None where it is not there. `lines`: of its metrics.

    `changes`: the share of each weight's mask that changed, by step. `said`: what `elsa generate` has kept of it.
    """
    html, name = Html(), record["name"]
    title = f"{record['model']}, {record['method']}, {record['pattern']}, seed {record['seed']}"
    html.parts += ['<p><a href="../index.html">the report</a></p>', f"<h1>{escape(title)}</h1>", _facts(record)]
    if folder is not None:
        html.parts.append(f'<p><a href="{address(folder, page_folder)}">{escape(str(folder))}</a></p>')
    for number, view in enumerate(views(record)):
        _scores(html, view, "" if number == 0 else f", protocol {number + 1}")
    pictures = metric_pictures(record["method"], name, lines)
    if pictures:
        html.parts.append('<h2>By step</h2><div class="panels">')
        for picture in pictures:
            html.picture(picture, has_files=False)
        html.parts.append("</div>")
    if (layers := layers_picture(record)) is not None:
        html.picture(layers, has_files=False)
    if len(changes) > 1:
        caption = "Share of each weight's mask that changed"
        html.parts.append(f"<figure><figcaption>{caption}</figcaption>{html.place(heat(changes))}</figure>")
    for prompt, texts in said:
        html.parts.append(f"<h2>What it says after</h2><pre>{escape(prompt)}</pre>")
        for model, text in texts.items():
            html.parts.append(f"<h3>{escape(model)}</h3><pre>{escape(text)}</pre>")
    html.parts.append("<h2>Settings</h2>")
    settings = flattened(record["settings"]).items()
    html.table(["setting", "value"], [[cell(key, "setting"), cell(str(value), "value")] for key, value in settings])
    return html.whole(title, script=f'<script src="../{LIBRARY}"></script>')


def _facts(record: Record) -> str:
    counted, facts, seconds = record["sparsity"], record["facts"], record["seconds"]
    calibration, training = (facts.get(f"{kind}_tokens", 0) for kind in ("calibration", "training"))
    shown = {
        "run": record["name"],
        "zeros": f"{counted['zeros']:,} of {counted['numel']:,}, {counted['counted']:.4%}",
        "tokens": f"{calibration:,} of calibration, {training:,} of training",
        "seconds": ", ".join(f"{phase} {_seconds(value)}" for phase, value in seconds.items()),
        "peak memory": f"{record['peak_memory_bytes'] / 2**30:.2f} GiB",
        "threads": str(record["environment"].get("threads")),
        "verdict": _verdict(facts.get("verdict")),
    }
    items = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in shown.items() if text)
    return f"<dl>{''.join(items)}</dl>"


def _seconds(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, int | float) else str(value)


def _verdict(found: Any) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{key}: {value}" for key, value in found.items())
    return "" if found is None else str(found)


def _scores(html: Html, view: Record, which: str) -> None:
    if view["perplexity"]:
        html.parts.append(f"<h2>Perplexity{which}</h2>")
        headers = ["set", "perplexity", "windows", "length"]
        rows = [
            [name, in_words(score["perplexity"], 2), str(score["windows"]), str(score["length"])]
            for name, score in view["perplexity"].items()
        ]
        html.table(headers, [[cell(text, header) for text, header in zip(row, headers, strict=True)] for row in rows])
    at = f" at {view['pattern']}"
    if "zero_shot" in view:
        html.parts.append(f"<h2>Zero-shot accuracy{escape(at)}{which}</h2>")
        rows = [[name, _with_error(task), str(task["n"])] for name, task in view["zero_shot"]["tasks"].items()]
        headers = ["task", "acc", "n"]
        html.table(headers, [[cell(text, header) for text, header in zip(row, headers, strict=True)] for row in rows])
    if "generation" in view:
        html.parts.append(f"<h2>Generation{escape(at)}{which}</h2>")
        found = generation_rows(view["generation"], view.get("generation_against_dense", {}))
        html.table(GENERATION_COLUMNS, [
            [cell(text, header) for text, header in zip(row, GENERATION_COLUMNS, strict=True)] for row in found
        ])  # fmt: skip


def _with_error(task: Mapping[str, Any]) -> str:
    return f"{task['acc']:.3f} ± {task['acc_stderr']:.3f}" if "acc" in task else "--"
