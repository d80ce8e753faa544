"""`elsa dashboard`: write the Weights & Biases dashboard of a project, or put it online."""

import importlib.util
from pathlib import Path

from omegaconf import DictConfig

from elsa.config.build import build
from elsa.config.commands import DashboardConfig
from elsa.config.compose import plain
from elsa.errors import UserError


def dashboard(composed: DictConfig) -> None:
    """Write its JSON; with `save=true` also create it, which needs a key."""
    run = build(DashboardConfig, plain(composed))
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("dashboard: wandb-workspaces is not installed; run: pip install elsa[dashboard]")
    from elsa.track.dashboard import dashboard as built
    from elsa.track.dashboard import write_dashboard
    from elsa.track.wandb import has_key

    if run.save and not has_key():
        raise UserError("save=true: wandb has no key to put it online with; set WANDB_API_KEY, or run: wandb login")
    workspace = built(run.entity, run.project)
    write_dashboard(workspace, Path(run.file))
    print(f"{run.file}: the dashboard of {run.entity}/{run.project}", flush=True)
    if run.save:
        workspace.save()
        print(workspace.url, flush=True)
