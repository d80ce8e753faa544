"""The door for plain transformers: `AutoModelForCausalLM.from_pretrained(folder)` once `elsa.export` is imported.

So for `AutoModelForImageTextToText`, where that reads the dense folder. Without that import such a folder is an error,
since its files have names that no loader looks for. transformers knows formats of weights under the name of
quantisation, which this need not be.
"""

import types
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from elsa.errors import UserError
from elsa.export.experts import make_room, packed_experts, settle_experts
from elsa.export.forms import form as form_of
from elsa.export.kind import auto_of
from elsa.export.linear import SparseLinear
from elsa.export.stored import METHOD, VERSION, WEIGHTS, Stored, sparse_modules, weight_of
from elsa.export.writing import write_config, write_tensors
from elsa.files import write_folder_atomically
from elsa.globs import expert_name, stored_name


class ElsaSparseConfig(QuantizationConfigMixin):
    """`quantization_config` of config.json: `modules` is {module: its entry}, `weights` the file to begin with."""

    def __init__(self, modules: dict[str, Any], version: int = VERSION, weights: str = WEIGHTS, **unknown: Any):
        self.quant_method = METHOD  # type: ignore[assignment] # one of transformers' own is declared
        sparse_modules({"quant_method": METHOD, "version": version, "modules": modules})  # raises
        self.version, self.modules, self.weights = version, modules, weights


class ElsaSparseQuantizer(HfQuantizer):
    """Puts `SparseLinear` in the place of the layers whose matrices are sparse; experts' matrices are made dense."""

    quantization_config: ElsaSparseConfig

    def update_attn_implementation(self, config: PretrainedConfig) -> PretrainedConfig:
        """The first hook that sees the config: say which file to look for."""
        config.transformers_weights = self.quantization_config.weights
        return config

    update_tp_plan = update_attn_implementation  # the first one in transformers 5.0

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **given: Any) -> None:
        dtype = given.get("dtype") or model.dtype
        self._dtype = dtype
        for name, entry in self.quantization_config.modules.items():
            if stored_name(name)[1] is not None:
                make_room(model, name, entry, dtype)
                continue
            old = model.get_submodule(name)
            if not isinstance(old, (nn.Linear, Conv1D)):
                raise UserError(f"{name} is a {type(old).__name__} in this model, no linear layer")
            model.set_submodule(name, SparseLinear(entry, old.bias is not None, dtype))
        _check_files(model, [Path(each) for each in given["checkpoint_files"]])

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **given: Any) -> PreTrainedModel:
        settle_experts(model, self.quantization_config.modules, self._dtype)
        for name, module in sparse_layers(model).items():
            try:
                module.settle()
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        # its own would write a file that loads at random without this package
        model.save_pretrained = types.MethodType(save_pretrained, model)  # type: ignore[method-assign]
        return model

    def is_serializable(self, *given: Any, **named: Any) -> bool:
        """By `save_pretrained` below alone."""
        return False

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        """So that `generate` may compile its step, where it does so for other models."""
        return True


def sparse_layers(model: nn.Module) -> dict[str, SparseLinear]:
    """The layers of `model` that hold sparse matrices, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLinear)}


def use_form(model: nn.Module, name: str | None) -> None:
    """Hold every sparse matrix of a model in one form.

    Args:
        model: that was loaded from an exported folder.
        name: of the form; None for the one that fits each matrix.

    Raises:
        UserError: for a form that there is not, or not on this device.
    """
    for layer in sparse_layers(model).values():
        layer.settle(None if name is None else form_of(name, layer.csr().values.device))


def load_sparse(folder: Path, dtype: str, device: str, form_name: str | None = None) -> PreTrainedModel:
    """An exported model, in evaluation mode.

    Args:
        folder: that `elsa export` has written.
        dtype: of the values in memory: float32, bfloat16 or float16.
        device: where the model goes.
        form_name: in which it holds its matrices; None for the one that fits each.
    """
    register()
    loader = auto_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    model: PreTrainedModel = loader.from_pretrained(
        folder, dtype=getattr(torch, dtype), device_map={"": device}, trust_remote_code=False
    )
    if form_name is not None:
        use_form(model, form_name)
    return model


def save_pretrained(model: PreTrainedModel, save_directory: str | Path, **ignored: Any) -> None:
    """Write a loaded sparse model as it was: the same bytes.

    Args:
        model: that was loaded from an exported folder.
        save_directory: may hold other files, such as a tokenizer.
        **ignored: arguments of transformers' own `save_pretrained`.
    """
    folder = Path(save_directory)
    layers, experts = sparse_layers(model), packed_experts(model)
    inside = tuple(f"{name}." for name in layers)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})

    def tensors() -> Any:
        for name, tensor in model.state_dict().items():
            if not name.startswith(inside) and name not in tied and name not in experts:
                yield name, tensor.cpu(), False
        for name, layer in layers.items():
            yield f"{name}.weight", layer.packed(), layer.entry.get("transposed", False)
            if layer.bias is not None:
                yield f"{name}.bias", layer.bias.detach().cpu(), False
        for parameter, matrices in experts.items():
            for number, (packed, transposed) in enumerate(matrices):
                yield expert_name(parameter, number), packed, transposed

    def write(where: Path) -> None:
        entries = write_tensors(where, tensors())
        config = model.config.to_dict() | {"dtype": str(model.dtype).removeprefix("torch.")}
        write_config(where, config | {"architectures": [type(model).__name__]}, entries)
        if model.can_generate():
            model.generation_config.save_pretrained(where)

    write_folder_atomically(folder / ".saved", write)
    for path in (folder / ".saved").iterdir():
        path.replace(folder / path.name)
    (folder / ".saved").rmdir()


def register() -> None:
    """Tell transformers of the format, once."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(ElsaSparseConfig)
        register_quantizer(METHOD)(ElsaSparseQuantizer)


def _check_files(model: PreTrainedModel, files: list[Path]) -> None:
    """Raise `UserError` unless the files hold just the model's tensors: transformers would draw what is missing."""
    stored = Stored(files[0].parent)
    wanted = set(model.state_dict()) - set(getattr(model, "all_tied_weights_keys", None) or {})
    inside = {weight_of(name) for name in stored.modules} | {stored_name(name)[0] for name in stored.modules}
    found = {n for n in stored.shapes if n not in inside} | {
        f"{weight_of(name)}_{part}" for name in stored.modules for part in stored.packed(name).parts
    }
    missing, left = sorted(wanted - found), sorted(found - set(model.state_dict()))
    if missing or left:
        said = [f"{len(missing)} tensors are missing ({missing[0]})"] if missing else []
        said += [f"{len(left)} are not of the model ({left[0]})"] if left else []
        raise UserError(f"path={stored.folder}: {', and '.join(said)}")
