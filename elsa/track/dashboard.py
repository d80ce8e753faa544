"""A Weights & Biases dashboard as code: what a sweep's runs are compared by, and what one run is watched by."""

import json
from pathlib import Path

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from elsa.files import write_atomically


def dashboard(entity: str, project: str) -> ws.Workspace:
    """The dashboard; `.save()` puts it online, which needs a key."""

    def curve(title: str, *metrics: str, log: bool = False) -> wr.LinePlot:
        return wr.LinePlot(title=title, x="step", y=list(metrics), log_y=log, max_runs_to_show=30)

    scores = wr.SummaryMetric("perplexity/held_out")
    return ws.Workspace(
        entity=entity, project=project, name="elsa",
        sections=[
            ws.Section(
                name="Comparison", is_open=True,
                panels=[
                    wr.ScatterPlot(
                        title="Perplexity against the share of zeros", x=wr.Config("sparsity"), y=scores, log_y=True
                    ),
                    wr.BarPlot(title="Perplexity by method", metrics=[scores], groupby=wr.Config("method")),
                    wr.BarPlot(
                        title="Zero-shot accuracy by method", metrics=[wr.SummaryMetric("zero_shot/average")],
                        groupby=wr.Config("method"),
                    ),
                    wr.BarPlot(
                        title="Accuracy of answers by method", metrics=[wr.SummaryMetric("generation/average")],
                        groupby=wr.Config("method"),
                    ),
                ],
            ),
            ws.Section(
                name="Training", is_open=True,
                panels=[
                    curve("Loss", "loss"), curve("Penalty λ", "penalty", log=True),
                    curve("Energy off the support", "off_support_energy", log=True),
                    curve("Relative primal residual", "relative_residual", log=True),
                    curve("Loss of x and z on the probe", "probe_loss", "probe_loss_sparse"),
                    curve("Dual residual and λ-stationarity", "dual_residual", "stationarity", log=True),
                    curve("Mask change", "mask_change"), curve("Learning rate", "learning_rate"),
                    curve("Tokens per second", "tokens_per_second"),
                ],
            ),
            ws.Section(
                name="Pictures",
                panels=[wr.MediaBrowser(title="Zeros and mask changes", media_keys=["sparsity", "mask_change"])],
            ),
        ],
    )  # fmt: skip


def write_dashboard(workspace: ws.Workspace, path: Path) -> None:
    """The dashboard as the JSON that wandb takes."""
    content = workspace._to_model().model_dump(by_alias=True, mode="json")
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))
