"""The hidden states that flow into a block, for all calibration batches, kept where they fit.

On the device, in CPU memory, or in memory-mapped files of the temporary folder (`TMPDIR`), which the system writes out
when memory runs short. Only one block's are ever kept.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch

PLACES = ("auto", "device", "cpu", "disk")


class Activations:
    """A list of batches, all in one place. `place`: one of `PLACES`; auto takes the first with twice the room."""

    def __init__(self, place: str, first: torch.Tensor, count: int):
        """`first`: the first of `count` batches of equal size; it is not yet put in."""
        self._device = first.device
        self.place = _roomiest(first, count) if place == "auto" else place
        self._folder = Path(tempfile.mkdtemp(prefix="elsa-activations-")) if self.place == "disk" else None
        if self._folder is not None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._batches: list[torch.Tensor] = []

    def like(self) -> "Activations":
        """An empty list in the same place."""
        return Activations(self.place, self._batches[0], 0)

    def append(self, batch: torch.Tensor) -> None:
        if self._folder is not None:
            file = torch.from_file(
                str(self._folder / f"{len(self)}"), shared=True, size=batch.numel(), dtype=batch.dtype
            )
            batch = file.view(batch.shape).copy_(batch)
        self._batches.append(batch.cpu() if self.place == "cpu" else batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> torch.Tensor:
        """A batch on the model's device."""
        return self._batches[index].to(self._device)

    def __setitem__(self, index: int, batch: torch.Tensor) -> None:
        """Replace a batch by one of the same shape and dtype."""
        if self.place == "device":
            self._batches[index] = batch
        else:
            self._batches[index].copy_(batch)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))


def _roomiest(batch: torch.Tensor, count: int) -> str:
    need = 2 * count * batch.numel() * batch.element_size()
    if batch.device.type == "cuda" and need < torch.cuda.mem_get_info(batch.device)[0]:
        return "device"
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need < free:
        return "device" if batch.device.type == "cpu" else "cpu"
    return "disk"
