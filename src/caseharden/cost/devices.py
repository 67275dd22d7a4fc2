"""Devices: how fast some compute, what they hold, what an hour of them costs. All that is assumed is here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from caseharden.cost.ledger import Work
from caseharden.errors import CasehardenError, nearest

GB, TERA = 1e9, 1e12
UTILIZATION = 0.4
"""Share of the peak that products of matrices reach in a plain training loop of batches that fill the device."""
MOVED = 0.7
"""Share of the bandwidth that is reached."""
CALL = 8e-6
"""Seconds that a call of an operator takes on a GPU that has nothing else to do: PyTorch's own, without graphs."""
CONTEXT = 1.5 * GB
"""Bytes that CUDA, its libraries and PyTorch's allocator take on a GPU for themselves."""


@dataclass(frozen=True)
class Device:
    """One device. `flops` are a second's at the peak, dense, by precision; `bandwidth` and `link` bytes a second.

    `link` goes to each of the other devices of the same machine. Operators run one after another where it is
    `serial`; otherwise whichever of computing, moving and calling takes longest is the time of all three. `base`
    are bytes that are taken before there is a model, `loads` those that are held for each byte of weights while
    they are loaded, `slack` those for each byte of activations; `price` are dollars an hour.
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    memory: float
    link: float = 32 * GB
    price: float = 0.0
    utilization: float = UTILIZATION
    moved: float = MOVED
    call: float = CALL
    base: float = CONTEXT
    serial: bool = False
    loads: float = 1.0
    load_speed: float = 1 * GB
    slack: float = 1.1

    def seconds(self, work: Any, precision: str) -> Any:
        """Seconds of each row of [n, 3]: operations, bytes moved, calls."""
        computing = work[:, 0] / (self.flops[precision] * self.utilization)
        moving = work[:, 1] / (self.bandwidth * self.moved)
        calling = work[:, 2] * self.call
        if self.serial:
            return computing + moving + calling
        longer = computing.clip(min=moving)
        return longer.clip(min=calling)

    def seconds_of(self, work: Work, precision: str) -> float:
        """Seconds of work that is done one call at a time, most of it moving bytes."""
        import numpy

        return float(self.seconds(numpy.array([[work.flops, work.traffic, work.calls]]), precision)[0])


def gpu(name: str, bf16: float, fp32: float, bandwidth: float, memory: float, link: float, price: float) -> Device:
    flops = {"bfloat16": bf16 * TERA, "float32": fp32 * TERA}
    return Device(name, flops, bandwidth * GB, memory * GB, link * GB, price)


TABLE = {
    device.name: device
    for device in (
        # Makers' data sheets: TFLOP/s dense in bfloat16 (tensor cores) and float32, GB/s, GB, GB/s to each neighbor
        # one way; and dollars an hour as clouds asked on demand in November 2026, which change: --price.
        gpu("h100", 989, 67, 3350, 80, 450, 2.5),
        gpu("h200", 989, 67, 4800, 141, 450, 3.5),
        gpu("b200", 2250, 80, 8000, 180, 900, 5.5),
        gpu("a100-80", 312, 19.5, 2039, 80, 300, 1.6),
        gpu("l40s", 362, 91.6, 864, 48, 32, 1.0),
        gpu("rtx4090", 165, 82.6, 1008, 24, 32, 0.4),
    )
}
"""Devices by name."""


def named(text: str, *, price: float | None = None, utilization: float | None = None) -> tuple[Device, int]:
    """The device, and how many, that ``h100x8`` stands for, with another `price` or `utilization` if given."""
    found = re.fullmatch(r"(.+?)(?:x([1-9][0-9]*))?", text)
    name, number = (found[1], int(found[2] or 1)) if found else (text, 1)
    if name not in TABLE:
        known = ["here", *TABLE]
        raise CasehardenError(
            f"--device: there is no device {name!r}.{nearest(name, known)} Known are {', '.join(known)}, and "
            "several of one, as in h100x8."
        )
    return changed(TABLE[name], price, utilization), number


def changed(device: Device, price: float | None, utilization: float | None) -> Device:
    """The device with another price or utilization. Raises `CasehardenError` for one that cannot be."""
    if price is not None and price < 0:
        raise CasehardenError(f"--price={price} must not be below 0.")
    if utilization is not None and not 0 < utilization <= 1:
        raise CasehardenError(f"--utilization is a share of the peak, above 0 and up to 1, not {utilization}.")
    device = device if price is None else replace(device, price=price)
    return device if utilization is None else replace(device, utilization=utilization)
