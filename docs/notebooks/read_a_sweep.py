# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Read a sweep's records with pandas
#
# Every finished run leaves a `result.json`; `elsa report` collects those below a folder into `records.jsonl`. Here
# are the committed ones of `elsa sweep=layerwise_tiny`: seven methods, seven patterns, three seeds. Start it in the
# root of the repository, or name a file of your own.

# %%
import os
from pathlib import Path

import pandas as pd

from elsa.record.record import read_records, views

RECORDS = Path(os.environ.get("NOTEBOOK_RECORDS", "docs/results/layerwise_tiny/records.jsonl"))

# %% [markdown]
# A record holds a run once, and each way in which it was scored. `views` gives it with the scores in their place,
# once for every protocol.

# %%
rows = [
    {
        "method": view["method"], "pattern": view["pattern"], "seed": view["seed"], "set": name,
        "perplexity": score["perplexity"], "windows": score["windows"], "sparsity": view["sparsity"]["counted"],
        "seconds": view["seconds"]["prune"], "GiB": view["peak_memory_bytes"] / 2**30,
        "torch": view["environment"]["libraries"]["torch"],
    }
    for record in read_records(RECORDS) for view in views(record) for name, score in view["perplexity"].items()
]  # fmt: skip
frame = pd.DataFrame(rows)
print(frame.head().to_string())

# %% [markdown]
# Rows can be compared where they were scored alike: one set, as many windows, one version of torch.

# %%
print(frame.groupby(["set", "windows", "torch"]).size())

# %% [markdown]
# ## The table
#
# Mean and standard deviation over seeds. Magnitude draws no calibration windows and so has one seed.

# %%
table = frame.pivot_table(index="method", columns="pattern", values="perplexity", aggfunc=["mean", "std", "count"])
print(table["mean"].sort_values("70%", ascending=False).round(2).to_string())
print(table["count"].min(axis=1).to_dict())

# %% [markdown]
# ## Paired differences
#
# Two methods on the same seed share their calibration windows, so that the difference says more than the two means.

# %%
by_seed = frame[frame.pattern == "70%"].pivot(index="seed", columns="method", values="perplexity")
difference = (by_seed["sparsellm"] - by_seed["alps"]).dropna()
print(f"sparsellm − alps at 70 %: {difference.mean():.2f} ± {difference.std():.2f} over {len(difference)} seeds")

# %% [markdown]
# ## What it cost

# %%
print(frame.groupby("method")[["seconds", "GiB"]].median().sort_values("seconds").round(1).to_string())
