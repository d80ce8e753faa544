"""Seconds that layer-wise methods spend in pruning (calibration forward left out), beside the loops they come from.

The second way is that of the reference codes, written anew: one Gram matrix and one factorisation for every layer, even
where layers share their inputs, and their sort and topk calls. Both see the same inputs, in turns; the printed error is
‖WX − W'X‖² / ‖WX‖² over all layers.

python scripts/bench/baselines.py [--model smollm2_135m] [--blocks 2] [--rounds 3] [--ratio 0.7]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import torch

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.layerwise.driver import LayerPruner
from elsa.model.weights import weights_by_block
from elsa.sparsity.pattern import Pattern

Group = tuple[
    list[torch.Tensor], list[torch.Tensor]
]  # weights [O, I] that share their inputs, batches of inputs [T, I]


def reference_gram(batches: list[torch.Tensor]) -> torch.Tensor:
    gram = torch.zeros(batches[0].shape[1], batches[0].shape[1])
    for count, inputs in enumerate(batches, 1):
        gram *= (count - 1) / count
        scaled = (2 / count) ** 0.5 * inputs.t()
        gram += scaled.matmul(scaled.t())
    return gram


def reference_sparsegpt(weight: torch.Tensor, batches: list[torch.Tensor], ratio: float) -> torch.Tensor:
    weight, gram = weight.clone(), reference_gram(batches)
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)
    for start in range(0, weight.shape[1], 128):
        end = min(start + 128, weight.shape[1])
        block, result = weight[:, start:end].clone(), torch.zeros(weight.shape[0], end - start)
        errors, factor = torch.zeros_like(block), inverse[start:end, start:end]
        score = block**2 / factor.diagonal().reshape(1, -1) ** 2
        mask = score <= score.flatten().sort()[0][int(score.numel() * ratio)]
        for i in range(end - start):
            column = block[:, i].clone()
            column[mask[:, i]] = 0
            result[:, i] = column
            error = (block[:, i] - column) / factor[i, i]
            block[:, i:] -= error.unsqueeze(1).matmul(factor[i, i:].unsqueeze(0))
            errors[:, i] = error
        weight[:, start:end] = result
        weight[:, end:] -= errors.matmul(inverse[start:end, end:])
    return weight


def reference_l_admm(weight: torch.Tensor, batches: list[torch.Tensor], ratio: float) -> torch.Tensor:
    gram = reference_gram(batches)
    norm = gram.diagonal().sqrt() + 1e-8
    gram = gram / norm / norm.unsqueeze(1)
    dense = (weight * norm).t()
    gram.diagonal().add_(0.1 * gram.diagonal().mean())
    right = gram.matmul(dense)
    inverse = torch.inverse(gram + torch.eye(len(gram)))
    dual = torch.zeros_like(dense)
    for step in range(20):
        if step < 15:
            score = (dense + dual).abs()
            mask = score > score.flatten().sort()[0][int(score.numel() * ratio)]
        sparse = (dense + dual) * mask
        dual = dual + dense - sparse
        dense = inverse.matmul(right + sparse - dual)
    return ((dense + dual) * mask).t() / norm


def reference_alps(weight: torch.Tensor, batches: list[torch.Tensor], ratio: float) -> torch.Tensor:
    gram = reduce(torch.add, (inputs.t().matmul(inputs) for inputs in batches))
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    norm = gram.diagonal().sqrt()
    gram = gram / norm / norm.unsqueeze(1)
    dense = (weight * norm).t().contiguous()
    right, rho, moved = gram.matmul(dense), 0.1, False
    values, vectors = torch.linalg.eigh(gram.double())
    keep = round((1 - ratio) * dense.numel())

    def sparsify(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.clone().reshape(-1)
        flat[torch.topk(-(flat**2), flat.numel() - keep)[1]] = 0
        return flat.reshape(tensor.shape)

    inverse = ((vectors / (values + rho)) @ vectors.t()).float()
    start = sparsify(dense)
    sparse, dual, support = start, torch.zeros_like(dense), start == 0
    for step in range(300):
        dense = inverse.matmul(right - dual + rho * sparse)
        sparse = sparsify((dual + rho * dense) / rho)
        dual = dual + rho * (dense - sparse)
        if (step + 1) % 3:
            continue
        change = int(((sparse == 0) != support).sum())
        support = sparse == 0
        if change > 0.005 * keep or (change and moved):
            moved, rho = True, rho * (1.3 if change > 0.1 * keep else 1.2 if change > 0.005 * keep else 1.1)
        elif moved:
            break
        else:
            sparse, dual, rho = start, torch.zeros_like(dual), rho / 5
        inverse = ((vectors / (values + rho)) @ vectors.t()).float()
    mask, solution = sparse != 0, sparse
    residual = (right - gram.matmul(solution)) * mask
    direction, energy = residual, (residual**2).sum(0)
    for _ in range(10):
        image = gram.matmul(direction) * mask
        length = energy / (direction * image).sum(0).clamp_min(1e-30)
        solution, residual = solution + length * direction, residual - length * image
        previous, energy = energy, (residual**2).sum(0)
        direction = residual + energy / previous.clamp_min(1e-30) * direction
    return solution.t() / norm


REFERENCES = {"sparsegpt": reference_sparsegpt, "l_admm": reference_l_admm, "alps": reference_alps}


def ours(pruner: LayerPruner, group: Group, pattern: Pattern) -> list[torch.Tensor]:
    weights, batches = group
    statistics = pruner.init_statistics(weights[0])
    for inputs in batches:
        pruner.update_statistics(statistics, inputs)
    prepared = pruner.prepare(statistics)
    return [pruner.prune(weight, prepared, pattern) for weight in weights]


def groups_of(model: torch.nn.Module, blocks: int, windows: torch.Tensor) -> list[Group]:
    """Layers of the first blocks with the inputs that they see in a forward of the dense model."""
    seen: dict[int, tuple[torch.Tensor, Group]] = {}
    layers = [weight for block in weights_by_block(model)[:blocks] for weight in block.values()]
    inputs: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [
        weight.module.register_forward_pre_hook(lambda module, args, found=found: found.append(args[0]))
        for weight, found in zip(layers, inputs, strict=True)
    ]
    with torch.no_grad():
        for window in windows:
            model(window[None].long(), use_cache=False)
    for hook in hooks:
        hook.remove()
    for weight, found in zip(layers, inputs, strict=True):
        batches = [tensor.flatten(0, -2).float() for tensor in found]
        seen.setdefault(id(found[0]), (found[0], ([], batches)))[1][0].append(weight.value_OI.clone())
    return [group for _, group in seen.values()]


def error(groups: list[Group], pruned: list[torch.Tensor]) -> float:
    wrong = right = 0.0
    result = iter(pruned)
    for weights, batches in groups:
        gram = reduce(torch.add, (inputs.double().t() @ inputs.double() for inputs in batches))
        for weight in weights:
            difference = (weight - next(result)).double()
            wrong += float((difference @ gram * difference).sum())
            right += float((weight.double() @ gram * weight.double()).sum())
    return wrong / right


def timed(run: Callable[[], list[torch.Tensor]]) -> tuple[float, list[torch.Tensor]]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--windows", type=int, default=16, help="of 512 random tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--methods", nargs="+", choices=REFERENCES, default=list(REFERENCES))
    options = parser.parse_args()

    run = build(PruneConfig, compose(f"model={options.model}"))
    model, _ = run.model.load(Path(run.paths.cache), "cpu")
    generator = torch.Generator().manual_seed(0)
    groups = groups_of(
        model, options.blocks, torch.randint(0, model.config.vocab_size, (options.windows, 512), generator=generator)
    )
    pattern = Pattern(pattern="unstructured", ratio=options.ratio)
    print(f"{options.blocks} blocks of {options.model}, {options.windows} windows, {options.ratio:.0%} sparsity")
    for name in options.methods:
        pruner = build(PruneConfig, compose(f"method={name}")).method
        ways = {
            "ours": lambda pruner=pruner: [weight for group in groups for weight in ours(pruner, group, pattern)],
            "reference": lambda name=name: [
                REFERENCES[name](weight, batches, options.ratio) for weights, batches in groups for weight in weights
            ],
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        errors = {}
        for _ in range(options.rounds):
            for way, call in ways.items():
                elapsed, pruned = timed(call)
                seconds[way].append(elapsed)
                errors[way] = error(groups, pruned)
        medians = {way: statistics.median(values) for way, values in seconds.items()}
        print(
            f"  {name:<10} ours {medians['ours']:7.2f} s, error {errors['ours']:.6f}   reference "
            f"{medians['reference']:7.2f} s, error {errors['reference']:.6f}   "
            f"{medians['reference'] / medians['ours']:.2f} x faster",
            flush=True,
        )


if __name__ == "__main__":
    main()
