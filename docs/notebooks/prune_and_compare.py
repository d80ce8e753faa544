# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Prune and compare, in ten minutes
#
# `tiny`, a Llama of 2.8 M parameters that ships with the package, loses 80 % of its weights in five ways. No GPU, no
# network. Runs are kept in `outputs/runs`, so that a second time everything is found and not done again.

# %%
import os

import elsa

# More steps, better numbers: 1,024 are those of the tables in the documentation.
STEPS = int(os.environ.get("NOTEBOOK_STEPS", "256"))
WINDOWS = int(os.environ.get("NOTEBOOK_WINDOWS", "128"))  # of 256 tokens, to calibrate on and to score
SCORED = [f"eval.windows={WINDOWS}"]

# %% [markdown]
# ## Without training
#
# Magnitude keeps the largest weights; Wanda and SparseGPT look at calibration text, block after block. The dense
# model is scored first, whatever the method, as the row to compare with.

# %%
runs = {"magnitude": elsa.prune("tiny", "magnitude", 0.8, overrides=SCORED)}
for method in ("wanda", "sparsegpt"):
    overrides = [*SCORED, f"method.calibration_windows={WINDOWS}"]
    runs[method] = elsa.prune("tiny", method, 0.8, overrides=overrides)

# %% [markdown]
# ## With training
#
# Elsa+ starts from ALPS's weights at 65 % and prunes the rest while it trains on the model's own loss, here on the
# dense model's predictions (`training.distillation=1`). The control is masked fine-tuning with the same tokens:
# SparseGPT's mask, trained. What a method gains over that row is its own; the rest is what the tokens are worth.

# %%
training = ["training=short", "training.distillation=1", "training.learning_rate=2e-3"]
training += [*SCORED, f"method.start.calibration_windows={WINDOWS}"]
runs["sparsegpt, then trained"] = elsa.prune("tiny", "finetuned/sparsegpt", 0.8, steps=STEPS, overrides=training)
runs["elsa_plus"] = elsa.prune("tiny", "elsa_plus", 0.8, steps=STEPS, overrides=training)

# %%
for name, run in runs.items():
    facts = run.record["facts"]
    tokens = facts.get("training_tokens", 0) + facts.get("calibration_tokens", 0)
    seconds = run.record["seconds"]["prune"]
    print(f"{name:<26}{run.sparsity:>8.2%}{run.perplexity:>12,.2f}{tokens:>12,} tokens{seconds:>8.1f} s")

# %% [markdown]
# ## What is left is a plain model
#
# The zeros are in the weights themselves: transformers loads the folder, and every program that reads its format.

# %%
model, tokenizer = elsa.load(runs["elsa_plus"].folder)
weight = model.get_parameter("model.layers.0.mlp.down_proj.weight")
print(f"{float((weight == 0).float().mean()):.1%} of down_proj in block 0 are zero; the budget is one for all weights")
ids = tokenizer("def read(path):\n    ", return_tensors="pt")["input_ids"]
print(tokenizer.decode(model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0]))
