"""How fast a model decodes, dense and sparse, side by side in one process.

Each side is timed in turn, round after round, so that what else the machine does meets all of them.

Shapes: B sequences of L tokens.
"""

import copy
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel, StaticCache

from elsa.export.forms import Dense, fitting, form, forms_on
from elsa.export.linear import SparseLinear
from elsa.model.weights import PrunableWeight, prunable_weights
from elsa.track.progress import progress, working

CEILING = "without linear layers"
_READ = 1 << 30  # bytes, of the measurement of bandwidth
_GAIN = 1.02  # times the fastest dense, below which it is no gain


@dataclass(frozen=True)
class Side:
    """A model to time. `step`: its forward pass for one more token; `compiled`: with a cache whose shapes stay."""

    name: str
    model: PreTrainedModel
    step: Callable[..., Any]
    compiled: bool

    @property
    def is_sparse(self) -> bool:
        return any(isinstance(module, SparseLinear) for module in self.model.modules())

    @property
    def is_dense(self) -> bool:
        return not self.is_sparse and CEILING not in self.name


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is decoded: `batch` sequences of `prompt` tokens, and `tokens` more one by one, `rounds` times."""

    batch: int
    prompt: int
    tokens: int
    rounds: int


class _Nothing(nn.Module):
    """In the place of a linear layer: the mean of its inputs, so that a compiler leaves out nothing before it."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1, keepdim=True).expand(*x.shape[:-1], self.outputs)


def sides(dense: list[PreTrainedModel], forms: list[str] | None, compiled: bool) -> list[Side]:
    """All that is timed: the dense models, each form of sparse, and the ceiling; eager, and `compiled` too.

    `dense`: the model in several dtypes; the others are in the last one, and share with it what they have in common.
    `forms`: None for all that run here.
    """
    models = {f"dense {str(each.dtype).removeprefix('torch.')}": each for each in dense}
    last = dense[-1]
    here = [name for name, each in forms_on(last.device).items() if each is not Dense]
    for name in here if forms is None else forms:
        models[f"sparse {name}"] = with_layers(last, partial(_in_form, name))
    if forms is None:
        fits = with_layers(last, partial(_in_form, None))
        if len({type(each.form) for each in fits.modules() if isinstance(each, SparseLinear)}) > 1:
            models["sparse as fits"] = fits
    models[CEILING] = with_layers(last, lambda weight: _Nothing(weight.shape_OI[0]))
    eager = [Side(name, each, each, False) for name, each in models.items()]
    return eager + ([_compiled(side) for side in eager if "scipy" not in side.name] if compiled else [])


def with_layers(model: PreTrainedModel, make: Callable[[PrunableWeight], nn.Module]) -> PreTrainedModel:
    """A copy of a model that shares its weights, but for the prunable layers, which `make` makes.

    Experts whose matrices lie in one parameter are no layers, and stay as they are.
    """
    shared: dict[int, Any] = {id(each): each for each in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, shared)
    for name, weight in prunable_weights(other).items():
        if weight.expert is None:
            other.set_submodule(name.removesuffix(".weight"), make(weight))
    return other


def measure(every: list[Side], load: Load, vocabulary: int) -> dict[str, Any]:
    """{side: medians, and the times of all rounds} of decoding the same random tokens, after a round of warm-up.

    `logits_differ`: largest difference of a logit from those of the first side.
    """
    shape, generator = (load.batch, load.prompt + load.tokens), torch.Generator().manual_seed(0)
    ids_BL = torch.randint(vocabulary, shape, generator=generator).to(every[0].model.device)
    times: dict[str, list[tuple[float, float]]] = {side.name: [] for side in every}
    differ: dict[str, float] = {}
    last: dict[str, torch.Tensor] = {}
    wanted: torch.Tensor | None = None
    for turn in progress(range(load.rounds + 1), f"decode, batch {load.batch}", unit="round", clock=False):
        for side in every:
            with nullcontext() if turn else working(f"warm up {side.name}"):
                prefill, decode, logits = _decode(side, ids_BL, load.prompt, warm=turn > 0)
            if turn:
                times[side.name].append((prefill, decode))
                same = torch.allclose(logits[:, -1], last[side.name], rtol=1e-2, atol=1e-2)
                assert same, f"{side.name} gives other logits in round {turn}"  # so it was another model's step
            else:
                wanted = logits if wanted is None else wanted
                differ[side.name], last[side.name] = float((logits - wanted).abs().max()), logits[:, -1]
    return {
        side.name: {
            "seconds": [decode for _, decode in times[side.name]],
            "tokens_per_second": load.batch * load.tokens / median(decode for _, decode in times[side.name]),
            "prefill_seconds": median(prefill for prefill, _ in times[side.name]),
            "bytes": resident_bytes(side.model), "logits_differ": differ[side.name],
        }
        for side in every
    }  # fmt: skip


def against(seconds: list[float], baseline: list[float]) -> dict[str, float]:
    """How many times as fast as the baseline, round by round: geometric mean, and its 95 % interval (Student's t)."""
    from scipy.stats import t  # late: it takes a second

    logs = torch.tensor(baseline).log().sub(torch.tensor(seconds).log()).tolist()
    half = float(t.ppf(0.975, len(logs) - 1)) * stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else float("inf")
    centre = mean(logs)
    ratio, low, high = torch.tensor([centre, centre - half, centre + half]).exp().tolist()
    return {"ratio": ratio, "low": low, "high": high}


def verdict(found: dict[str, Any], every: list[Side]) -> dict[str, Any]:
    """The fastest sparse side against the fastest dense one, in numbers and in words."""
    dense, sparse = (
        min((side.name for side in group), key=lambda name: median(found[name]["seconds"]), default=None)
        for group in ([s for s in every if s.is_dense], [s for s in every if s.is_sparse])
    )
    if dense is None or sparse is None:
        return {"words": "nothing to compare: a dense and a sparse side are wanted"}
    ratio = against(found[sparse]["seconds"], found[dense]["seconds"])
    range_ = f"95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}"
    if ratio["low"] >= _GAIN:
        words = f"{sparse} is {ratio['ratio']:.2f} times as fast as the fastest dense, {dense} ({range_})"
    elif ratio["high"] <= 1 / _GAIN:
        words = (
            f"no gain here: {sparse} has {ratio['ratio']:.2f} times the speed of the fastest dense, {dense} ({range_})"
        )
    else:
        words = f"no gain here that could be told: {sparse} against {dense} {ratio['ratio']:.2f} times ({range_})"
    return {"dense": dense, "sparse": sparse, "words": words} | ratio


def resident_bytes(model: nn.Module) -> int:
    """Of weights and buffers, each once."""
    return sum({id(each): each.nbytes for each in (*model.parameters(), *model.buffers())}.values())


def bytes_per_token(model: PreTrainedModel) -> int:
    """That one more token reads: all but an embedding of which a row is looked up, unless it is the head too."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = isinstance(head, nn.Linear) and head.weight is getattr(embedding, "weight", None)
    return resident_bytes(model) - (0 if tied else resident_bytes(embedding))


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a sum over a large tensor reads: median of five."""
    tensor = torch.ones(_READ // 4, device=device)
    seconds = []
    for _ in range(5):
        began = _now(device)
        tensor.sum()
        seconds.append(_now(device) - began)
    return _READ / median(seconds)


def busy() -> str | None:
    """A warning if others use the processors."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"the machine is busy (load {load:.1f} on {cores} cores); times will vary" if load > cores / 2 else None


def _decode(side: Side, ids_BL: torch.Tensor, prompt: int, warm: bool) -> tuple[float, float, torch.Tensor]:
    """Seconds of the prompt, of the rest token by token, and the logits of the last one; of all unless it is `warm`."""
    device, length = ids_BL.device, ids_BL.shape[1]
    config = side.model.config
    cache = StaticCache(config=config, max_cache_len=length) if side.compiled else DynamicCache(config=config)
    places = torch.arange(length, device=device)[None].expand(len(ids_BL), -1)
    logits = []
    # once it is warm nothing changes that a guard would have to look at, but which of the compiled models it is
    unguarded = torch.compiler.set_stance(skip_guard_eval_unsafe=warm and side.compiled)
    with torch.no_grad(), unguarded:
        began = _now(device)
        side.model(input_ids=ids_BL[:, :prompt], past_key_values=cache, use_cache=True)
        middle = _now(device)
        for place in range(prompt, length):
            one = slice(place, place + 1)
            out = side.step(
                input_ids=ids_BL[:, one].contiguous(), position_ids=places[:, one].contiguous(), past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
            if not warm:
                logits.append(out.logits.float().cpu())
        end = _now(device)
    return middle - began, end - middle, out.logits.float().cpu() if warm else torch.cat(logits, dim=1)


def _compiled(side: Side) -> Side:
    return Side(f"{side.name}, compiled", side.model, torch.compile(side.model.forward, dynamic=False), True)


def _in_form(name: str | None, weight: PrunableWeight) -> SparseLinear:
    """The layer of a weight in the form of that name, or in the one that fits it."""
    weight_OI, device = weight.value_OI, weight.value_OI.device
    its_form = fitting(device, float((weight_OI != 0).float().mean())) if name is None else form(name, device)
    return SparseLinear.of(weight_OI, weight.bias, its_form)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
