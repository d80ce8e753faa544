"""A GPU for machines that have none: tensors that say `cuda`, refuse to meet the CPU's, and compute there.

Unlike `FakeTensorMode` they hold real values, so that code may look at them, and results can be compared bit by bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
_ACROSS = {torch.ops.aten.copy_.default}  # take a tensor of each device, as on a real GPU
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}


class OnGpu(torch.Tensor):
    """`held`: what it really is, on the CPU. Views share it."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self):
        return GPU

    @property
    def is_cuda(self):
        return True

    @property
    def is_meta(self):
        return False

    def __repr__(self):
        return f"OnGpu({self.held})"

    def __reduce_ex__(self, protocol):
        return self.held.__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        copied = OnGpu(self.held.clone())
        made = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        return memo.setdefault(id(self), made)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        strangers = [each for each in tensors if not isinstance(each, OnGpu) and each.dim()]
        if strangers and function not in _ACROSS | _INDEXING:
            raise RuntimeError(f"{function}: expected all tensors on one device, found cuda:0 and cpu")
        known = {id(each.held): each for each in tensors if isinstance(each, OnGpu)}  # results of work in place

        def held(value):
            return value.held if isinstance(value, OnGpu) else CPU if isinstance(value, torch.device) else value

        def shown(value):
            return known.get(id(value), OnGpu(value)) if isinstance(value, torch.Tensor) else value

        return tree_map(shown, function(*tree_map(held, args), **tree_map(held, kwargs or {})))


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return OnGpu(tensor.detach().clone())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.held


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.held.detach().clone()

    @staticmethod
    def backward(ctx, gradient):
        return OnGpu(gradient)


class _MadeInside(TorchDispatchMode):
    """What PyTorch's own code makes beside a tensor that it takes for one of the device `meta`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") == torch.device("meta"):
            return OnGpu(function(*args, **kwargs | {"device": CPU}))
        return function(*args, **kwargs)


class _Moves(TorchFunctionMode):
    """What makes tensors on a device, or brings them to one."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name in ("to", "cpu", "cuda") and isinstance(args[0], torch.Tensor):
            return _moved(name, *args, **kwargs)
        if name == "numpy" and isinstance(args[0], OnGpu):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name == "tolist" and isinstance(args[0], OnGpu):
            return args[0].held.tolist()
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            return OnGpu(function(*args, **kwargs | {"device": CPU}))
        return function(*args, **kwargs)


def _moved(name, tensor, *args, device=None, dtype=None, copy=False, non_blocking=False):
    target = {"cpu": CPU, "cuda": GPU}.get(name, device)
    for value in args:
        if isinstance(value, torch.Tensor):
            target, dtype = value.device, value.dtype
        elif isinstance(value, str | torch.device):
            target = value
        elif isinstance(value, torch.dtype):
            dtype = value
    if target is not None and torch.device(target).type != tensor.device.type:
        tensor, copy = (_Down if tensor.is_cuda else _Up).apply(tensor), False
    return tensor if dtype is None and not copy else tensor.to(dtype or tensor.dtype, copy=copy)


def _with_moves(register):
    """A hook runs inside `backward`, where no mode is left."""

    def registered(tensor, hook):
        def moving(parameter):
            with _Moves():
                hook(parameter)

        return register(tensor, moving)

    return registered


@contextmanager
def pretended_gpu(monkeypatch) -> Iterator[torch.device]:
    """Inside, `cuda` is there."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (80 * 2**30, 80 * 2**30))
    register = torch.Tensor.register_post_accumulate_grad_hook
    monkeypatch.setattr(torch.Tensor, "register_post_accumulate_grad_hook", _with_moves(register))
    autocast = torch.autocast
    monkeypatch.setattr(  # it would ask the GPU for its bf16
        torch, "autocast", lambda kind, **rest: nullcontext() if kind == "cuda" else autocast(kind, **rest)
    )
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `model.to` makes new parameters
    try:
        with _MadeInside(), _Moves():
            yield torch.device("cuda")
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
