"""Masters: what an optimizer changes in the place of weights that are kept in less than float32, or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Masters:
    """The trained parameters as an optimizer sees them: float32, on the CPU if they are to be `offloaded`.

    An update that is too small for bfloat16 adds up in its master, from which the parameter is rounded anew after
    each step. A parameter that is float32 already, and where it belongs, is its own master: nothing is copied.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, offloaded: bool = False) -> None:
        self.parameters = parameters
        self.values = [_master(parameter, offloaded) for parameter in parameters]
        self._copied = [(p, m) for p, m in zip(parameters, self.values, strict=True) if p is not m]

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Give each master its parameter's gradient, one after another, so that no two copies of all are held."""
        for parameter, master in self._copied:
            if parameter.grad is not None:
                master.grad = parameter.grad.to(master)
                parameter.grad = None

    @torch.no_grad()
    def hand_over(self) -> None:
        """Set the parameters to what their masters are, rounded."""
        for parameter, master in self._copied:
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        return {"copied": [master.detach() for _, master in self._copied]}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Sequence[Tensor]]) -> None:
        for (_, master), value in zip(self._copied, state["copied"], strict=True):
            master.copy_(value)


def _master(parameter: nn.Parameter, offloaded: bool) -> nn.Parameter:
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    device = torch.device("cpu") if offloaded else parameter.device
    if (dtype, device) == (parameter.dtype, parameter.device):
        return parameter
    return nn.Parameter(parameter.detach().to(device, dtype))
