"""Save a pruned model as dense safetensors with exact zeros, and count what really is on disk."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from elsa.errors import UserError
from elsa.files import write_folder_atomically
from elsa.globs import stored_name
from elsa.sparsity.pattern import Pattern
from elsa.track.progress import progress, working


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    whole: dict[str, torch.Tensor] | None = None,
    companions: Iterable[Path] = (),
) -> None:
    """Write a folder that transformers loads as it loaded the model; it is whole or absent.

    `whole`: the weights by name where the model is spread over ranks. `companions`: files that go along as they are.
    """

    def save_model(where: Path) -> None:
        # under the names that the weights have in memory
        model.save_pretrained(where, state_dict=whole, save_original_format=False)

    def copy(where: Path) -> None:
        for path in companions:
            shutil.copyfile(path, where / path.name)

    with working("save"):
        write_folder_atomically(folder, save_model, tokenizer.save_pretrained, copy)


def count_zeros(folder: Path, names: list[str]) -> dict[str, dict[str, int]]:
    """{name: {"zeros", "numel"}} of the named weights, read back from the safetensors files one tensor at a time."""
    counts = {}
    for name, tensor in progress(_tensors(folder, set(names)), "count zeros", total=len(names), unit="weight"):
        counts[name] = {"zeros": int((tensor == 0).sum()), "numel": tensor.numel()}
    missing = sorted(set(names) - counts.keys())
    assert not missing, f"saved without {missing}"
    return {name: counts[name] for name in names}


def check_pattern(
    folder: Path, transposed: dict[str, bool], pattern: Pattern, of_each: Mapping[str, Pattern] | None = None
) -> None:
    """Raise `UserError` if a saved weight, or all together under one budget, misses zeros of the pattern.

    `transposed`: names, and whether the weight is stored as [I, O]. `of_each`: the pattern of each where that is known.
    """
    wanted, found, known = 0, 0, of_each is not None or pattern.allocation == "uniform"
    tensors = _tensors(folder, set(transposed))
    for name, tensor in progress(tensors, "check the pattern", total=len(transposed), unit="weight"):
        weight = tensor.t() if transposed[name] else tensor
        if pattern.group is None:
            its_wanted, its_found = (of_each or {}).get(name, pattern).zeros(weight.numel()), int((weight == 0).sum())
            its_wanted -= weight.shape[0]  # a method may round in every row
            short = known and its_found < its_wanted
            wanted, found = wanted + its_wanted, found + its_found
        else:
            its_wanted, its_found = pattern.kept(weight)
            short = its_found > its_wanted
        if short:
            raise UserError(
                f"{folder}: {name} misses pattern {pattern.pattern}: wanted {its_wanted}, found {its_found}"
            )
    if not known and found < wanted:
        raise UserError(f"{folder}: misses pattern {pattern.pattern}: wanted {wanted} zeros, found {found}")


def _tensors(folder: Path, names: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    wanted: dict[str, list[tuple[str, int | None]]] = {}
    for name in sorted(names):
        parameter, expert = stored_name(name)
        wanted.setdefault(parameter, []).append((name, expert))
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for stored in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
                tensor = file.get_tensor(stored) if stored in wanted else None
                for name, expert in wanted.get(stored, ()):
                    assert tensor is not None, "it is wanted"
                    yield name, _readable(tensor if expert is None else tensor[expert])


def _readable(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
