"""The linear layers of a pruned model for one token: torch dense, this package's sparse forms, and OpenVINO dense.

python scripts/bench/against_openvino.py <folder of a run or a model> [--rounds 20] [--threads 1]

What a user of a CPU would take instead. Needs `pip install openvino`, which is no dependency of this package. All sides
take turns; medians, and how many times as fast as torch's dense bfloat16.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import nn
from torch.nn import functional as F

import elsa
from elsa.export.forms import Form, form
from elsa.export.layout import Csr, quantized
from elsa.model.weights import prunable_weights

_CPU = torch.device("cpu")


class Linears(nn.Module):
    """All matrices, each times the input of its width, of which there is one each in rising order.

    `int8`: as 8-bit entries and a scale for each row.
    """

    def __init__(self, weights: list[torch.Tensor], int8: bool):
        super().__init__()
        self.int8 = int8
        for number, weight_OI in enumerate(weights):
            if int8:
                values_OI, scale_O = quantized(weight_OI)
                self.register_buffer(f"values_{number}", values_OI)
                self.register_buffer(f"scale_{number}", scale_O[:, None])
            else:
                self.register_buffer(f"weight_{number}", weight_OI)
        widths = sorted({weight_OI.shape[1] for weight_OI in weights})
        self.inputs = [widths.index(weight_OI.shape[1]) for weight_OI in weights]

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for number, place in enumerate(self.inputs):
            if self.int8:
                values_OI = self.get_buffer(f"values_{number}")
                weight_OI = values_OI.float() * self.get_buffer(f"scale_{number}")
            else:
                weight_OI = self.get_buffer(f"weight_{number}")
            outputs.append(F.linear(inputs[place], weight_OI))
        return outputs


def in_openvino(weights: list[torch.Tensor], inputs: list[torch.Tensor], int8: bool, threads: int) -> Callable[[], Any]:
    """A call of all linear layers in OpenVINO, dense in bfloat16, or with int8 weights."""
    model = openvino.convert_model(Linears(weights, int8), example_input=tuple(inputs))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    arrays = {number: each.numpy() for number, each in enumerate(inputs)}
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


def in_torch(weights: list[torch.Tensor], inputs: list[torch.Tensor], its_form: str | None) -> Callable[[], Any]:
    """The same in torch: dense bfloat16, or a sparse form of this package."""
    by_width = {each.shape[-1]: each.bfloat16() for each in inputs}
    narrow = [weight_OI.bfloat16() for weight_OI in weights]
    if its_form is None:
        return lambda: [F.linear(by_width[weight_OI.shape[1]], weight_OI) for weight_OI in narrow]
    forms: list[Form] = [form(its_form, _CPU) for _ in narrow]
    held = [each.hold(Csr.of(weight_OI), torch.bfloat16) for each, weight_OI in zip(forms, narrow, strict=True)]
    widths = [weight_OI.shape[1] for weight_OI in narrow]
    return lambda: [f.product(h, by_width[w], None) for f, h, w in zip(forms, held, widths, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, _ = elsa.load(options.folder)
    weights = [weight.value_OI.float().contiguous() for weight in prunable_weights(model).values()]
    share = sum(int((weight != 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    inputs = [torch.randn(1, width) for width in sorted({weight.shape[1] for weight in weights})]
    sides = {
        "torch dense bf16": in_torch(weights, inputs, None),
        **{f"sparse {name}": in_torch(weights, inputs, name) for name in ("bits", "csr16", "csr")},
        "OpenVINO dense bf16": in_openvino(weights, inputs, False, options.threads),
        "OpenVINO dense int8": in_openvino(weights, inputs, True, options.threads),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for turn in range(options.rounds + 2):
            for name, call in sides.items():
                began = time.perf_counter()
                call()
                if turn >= 2:
                    times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{options.folder}: {len(weights)} matrices, {1 - share:.1%} zeros, threads {options.threads}")
    for name, value in medians.items():
        print(f"  {name:<20} {1e3 * value:7.2f} ms   {medians['torch dense bf16'] / value:5.2f} times")


if __name__ == "__main__":
    main()
