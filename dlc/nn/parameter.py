"""Parameters: the Tensors of a module that are trained."""

from __future__ import annotations

from dlc import Tensor


class Parameter(Tensor):
    """A Tensor that a Module registers when it is assigned to an attribute; `requires_grad` is on unless turned off."""

    def __init__(self, data, requires_grad: bool = True, dtype=None):
        super().__init__(data.detach() if isinstance(data, Tensor) else data, dtype)
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"
