"""Matrices as they lie in memory, and how they multiply."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from elsa.errors import UserError
from elsa.export.forms import (
    FORMS,
    LONGEST,
    CpuBits,
    CpuCsr16,
    Dense,
    GpuBits,
    GpuCsr16,
    SemiStructured,
    TorchCsr,
    fitting,
    form,
    forms_on,
)
from elsa.export.kernels import cpu_kernels
from elsa.export.layout import Csr
from elsa.export.linear import SparseLinear
from tests.export.test_layout import MATRICES, random_matrix
from tests.kernels import needs_kernels

CPU = torch.device("cpu")
HERE = list(forms_on(CPU))
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@needs_kernels
def test_the_kernels_of_this_package_are_built_where_there_is_a_compiler():
    assert cpu_kernels() is None
    assert {"bits", "csr16", "csr", "scipy", "dense"} == set(HERE)


@needs_kernels
def test_a_build_that_was_killed_does_not_hold_up_the_next_one(tmp_path, monkeypatch):
    def builds(build_directory, **settings):
        assert not (Path(build_directory) / "lock").exists(), "torch would wait for this to go away"
        raise RuntimeError("far enough")

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr("torch.utils.cpp_extension.load", builds)
    build = cpu_kernels.__wrapped__
    assert build() == "far enough"
    (folder,) = tmp_path.iterdir()
    (folder / "lock").touch()
    assert build() == "far enough"


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_a_form_holds_the_very_matrix_and_multiplies_as_the_dense_one(matrix, dtype, name):
    matrix = matrix.to(dtype)
    its_form = form(name, CPU)
    held = its_form.hold(Csr.of(matrix), dtype)
    inputs = matrix.shape[1]
    assert torch.equal(its_form.csr(held, inputs).dense(dtype), matrix)
    for transposed in (False, True):
        dense = its_form.dense(held, inputs, dtype, transposed)
        assert torch.equal(dense, matrix)
        assert dense.t().is_contiguous() or not transposed
    for tokens in (1, 2, 3, 4, 5, 9):
        x = torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(tokens)).to(dtype)
        for bias in (None, torch.ones(len(matrix), dtype=dtype)):
            y = its_form.product(held, x, bias)
            exact = F.linear(x.double(), matrix.double(), None if bias is None else bias.double())
            assert y.dtype == dtype
            torch.testing.assert_close(
                y.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-2 if dtype != torch.float32 else 1e-5
            )


@needs_kernels
@pytest.mark.parametrize("name", ["bits", "csr16"])
@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_the_kernels_are_exact_on_matrices_of_a_model(share, name):
    matrix = random_matrix(192, 576, share, torch.bfloat16)
    its_form = form(name, CPU)
    held = its_form.hold(Csr.of(matrix), torch.bfloat16)
    x = torch.randn(5, 576)
    y = its_form.product(held, x, None)  # sums in float32
    torch.testing.assert_close(y.double(), x.double() @ matrix.double().t(), rtol=1e-5, atol=1e-4)


@needs_kernels
def test_threads_do_not_change_a_product():
    matrix, x = random_matrix(300, 64, 0.2), torch.randn(2, 64)
    its_form = form("bits", CPU)
    held = its_form.hold(Csr.of(matrix), torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(its_form.product(held, x, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@needs_kernels
def test_columns_above_32767_are_read_as_they_are():
    matrix = torch.zeros(2, 40_000)
    matrix[0, 39_999], matrix[1, 32_768] = 1.0, 2.0
    its_form = CpuCsr16()
    held = its_form.hold(Csr.of(matrix), torch.float32)
    x = torch.arange(40_000.0)[None]
    assert its_form.product(held, x, None).tolist() == [[39_999.0, 65_536.0]]
    assert its_form.csr(held, 40_000).columns.tolist() == [39_999, 32_768]
    with pytest.raises(UserError, match="at most 65,536 columns"):
        its_form.hold(Csr.of(torch.ones(1, 65_537)), torch.float32)


@needs_kernels
def test_the_rule_takes_the_form_that_fits():
    assert isinstance(fitting(CPU, 0.03), CpuCsr16)
    assert isinstance(fitting(CPU, 0.2), CpuBits)
    assert isinstance(fitting(CPU, 0.95), Dense)


def test_the_rule_without_a_compiler(monkeypatch):
    monkeypatch.setattr("elsa.export.forms.cpu_kernels", lambda: "there is no C++ compiler")
    assert isinstance(fitting(CPU, 0.1), TorchCsr)
    assert isinstance(fitting(CPU, 0.5), Dense)
    with pytest.raises(UserError, match="form=bits: not on cpu here, where there are csr, scipy, dense"):
        form("bits", CPU)


def test_the_rule_on_a_gpu(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("elsa.export.kernels.gpu.importlib.util.find_spec", lambda name: None)
    assert list(forms_on(cuda)) == ["2:4", "dense"]
    assert isinstance(fitting(cuda, 0.1), Dense)
    monkeypatch.setattr("elsa.export.kernels.gpu.importlib.util.find_spec", lambda name: object())
    assert list(forms_on(cuda)) == ["bits", "csr16", "2:4", "dense"]
    assert [type(fitting(cuda, share)) for share in (0.05, 0.1, 0.5, 0.9)] == [GpuCsr16, GpuBits, GpuBits, Dense]


def test_a_matrix_that_is_not_two_of_four_is_refused():
    with pytest.raises(UserError, match="form=2:4: a matrix has more than two values in a group of four"):
        SemiStructured().hold(Csr.of(torch.tensor([[1.0, 1.0, 1.0, 0.0]])), torch.float32)


@needs_kernels
def test_a_form_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="form=bit: did you mean 'bits'"):
        form("bit", CPU)


@pytest.mark.parametrize("name", HERE)
def test_a_layer_is_the_dense_one(name):
    torch.manual_seed(0)
    linear = nn.Linear(40, 30)
    linear.weight.data = random_matrix(30, 40, 0.2)
    layer = SparseLinear.of(linear.weight.data, linear.bias.data, form(name, CPU))
    with torch.no_grad():
        for shape in [(1, 1, 40), (2, 3, 40), (40,), (1, LONGEST + 1, 40), (0, 40)]:
            x = torch.randn(shape)
            torch.testing.assert_close(layer(x), linear(x))
        long = torch.randn(2, LONGEST, 40)
        assert torch.equal(layer(long), linear(long))  # made dense for the call: to the bit


@pytest.mark.parametrize("name", HERE)
def test_a_layer_can_be_copied_and_change_its_form(name):
    layer = SparseLinear.of(random_matrix(30, 40, 0.2), None, form(name, CPU))
    x = torch.randn(1, 40)
    wanted = layer(x)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(x), wanted)
    assert copied.form is not layer.form
    for other in HERE:
        copied.settle(form(other, CPU))
        assert copied.form.name == other
        torch.testing.assert_close(copied(x), wanted)
        assert torch.equal(copied.csr().dense(torch.float32), layer.csr().dense(torch.float32))


def test_every_form_has_a_name_of_its_own_on_a_device():
    names = [each.name for each in FORMS if each.runs_on(CPU)]
    assert len(set(names)) == len(names)
