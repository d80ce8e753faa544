"""The model as it is: the row that every other is compared with."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from elsa.method.base import Method, Task


@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """Change nothing: the row that every other method is compared with."""

    @property
    def prunes(self) -> bool:
        return False

    @property
    def uses_data(self) -> bool:
        return False

    def apply(self, model: nn.Module, task: Task) -> dict[str, Any]:
        return {}
