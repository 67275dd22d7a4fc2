"""Memory: what is held at the worst moment under each way to save it, and which ways would make a study fit.

The one place that models ways of saving memory, some of which a study can ask for and some of which a device's
number decides. Names are those of the fields that ask for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from caseharden.cost.architecture import Architecture, Pass
from caseharden.cost.devices import Device
from caseharden.cost.trace import KINDS, Moment

RANK = 16
"""Of the adapters that are proposed."""
EIGHT_BIT = 0.27
"""Bytes of an optimizer's state in eight bits, with its scales, to a byte of it in float32."""
GATHERED = 2
"""Parts of a sharded model that are whole on each device at a time: one that computes, one that is fetched."""


@dataclass(frozen=True)
class Layout:
    """How a run lies in memory; as it is by default.

    Over several devices (`shards`) neither optimizers nor masters are off-loaded, and weights are float32.
    """

    lora: bool = False
    forward_batch: int | None = None
    checkpointing: bool = False
    bfloat16: bool = False
    eight_bit: bool = False
    offload_copies: bool = False
    offload: bool = False
    shards: int = 1

    @property
    def can_be_sharded(self) -> bool:
        return not (self.offload or self.bfloat16)


@dataclass(frozen=True)
class Way:
    """A way to save memory: what to write, which field a method needs for it, and what it changes.

    `aside` if it puts something into the host's memory, which spares nothing where the model is there itself.
    """

    says: str
    field: str | None
    change: Callable[[Layout], Layout]
    aside: bool = False


WAYS = (
    Way("forward_batch: 1", "forward_batch", lambda it: replace(it, forward_batch=1)),
    Way("memory: {checkpointing: true}", None, lambda it: replace(it, checkpointing=True)),
    Way("keep: cpu", "keep", lambda it: replace(it, offload_copies=True), aside=True),
    Way(f"lora: {{r: {RANK}}}", "lora", lambda it: replace(it, lora=True)),
    Way("optimizer: adamw_8bit", "optimizer", lambda it: replace(it, eight_bit=True)),
    Way("precision: bfloat16_weights", None, lambda it: replace(it, bfloat16=True)),
    Way("memory: {offload: true}", None, lambda it: replace(it, offload=True), aside=True),
)
"""Those that leave one device one device, the least intrusive first."""


def held(moment: Moment, subject: Architecture, layout: Layout, device: Device) -> float:
    """Bytes on each device at a moment, beside those that it has taken before.

    Where weights are in bfloat16, the optimizer steps on others in float32, which count as its state. On a GPU its
    step takes as much again as there are gradients, since it takes all parameters at once. What is kept on the CPU
    is on the device only if that is the CPU.
    """
    found = dict.fromkeys(KINDS, 0.0) | dict(moment.held)
    share = subject.adapters(RANK) / subject.parameters if layout.lora else 1.0
    half = 0.5 if layout.bfloat16 else 1.0
    trained = share * found["gradients"]
    weights = half * found["weights"] + (share * found["weights"] if layout.lora else 0.0)
    states = share * found["states"] * (EIGHT_BIT if layout.eight_bit else 1.0)
    states += 0.0 if device.serial or moment.passes else trained
    if layout.bfloat16 and not layout.lora and found["states"]:
        states += found["weights"]
    states = 0.0 if layout.offload and not device.serial else states
    kept = 0.0 if layout.offload_copies and not device.serial else found["kept"]
    kept += found["kept aside"] if device.serial else 0.0
    copies = half * (found["copies"] + kept)
    gradients = trained * (1.0 if layout.lora else half)
    lasting = weights + gradients + states + copies
    if layout.shards > 1:
        lasting = lasting / layout.shards + GATHERED * 4 * half * subject.largest
    most = max((one.rows for _, one in moment.passes if one.variant.grad), default=1)
    part = min(1.0, (layout.forward_batch or most) / most) / layout.shards
    passing = part * found["logits"] + sum(activations(a, one, layout) for a, one in moment.passes)
    return float(lasting + device.slack * passing)


def activations(architecture: Architecture, one: Pass, layout: Layout) -> float:
    """Bytes of a pass's activations at the most: of `forward_batch` examples, or of each device's share of them.

    With checkpointing, what each layer begins with, and one layer's own. What does not depend on the pass's shape
    are weights cast to bfloat16, which there are none of where they are sharded, or are in bfloat16 themselves.
    """
    rows = math.ceil(one.rows / layout.shards)
    one = one._replace(rows=min(rows, layout.forward_batch) if one.variant.grad and layout.forward_batch else rows)
    profile = architecture.profile(one.variant)
    whole = float(profile.of([one[1:]])[0, 4])
    if layout.shards > 1 or layout.bfloat16:
        whole = max(0.0, whole - float(profile.coefficients[0, 4]))
    if not (one.variant.grad and layout.checkpointing):
        return whole
    ends = 4.0 * architecture.layers * one.rows * one.width * int(architecture.config.hidden_size)
    return min(whole, ends + whole / architecture.layers)


def peak(moments: Iterable[Moment], subject: Architecture, layout: Layout, device: Device) -> float:
    """Bytes on each device at the worst of several moments, all that is taken counted."""
    loading = device.loads * (2 if layout.bfloat16 else 4) * subject.parameters / layout.shards
    return device.base + max(loading, *(held(moment, subject, layout, device) for moment in moments))


def ways_to_fit(
    moments: Sequence[Moment],
    subject: Architecture,
    device: Device,
    fields: frozenset[str],
    asked: Layout = Layout(),
) -> list[tuple[str, float]]:
    """What would make it fit on a device, and the bytes it takes then: as few ways together as will do.

    `fields` are those that the methods have, `asked` is what the study says already. Nothing if not even all do.
    """
    usable = [
        way
        for way in WAYS
        if (way.field is None or way.field in fields)
        and way.change(asked) != asked
        and not (way.aside and device.serial)
    ]
    for number in range(1, len(usable) + 1):
        found = []
        for some in combinations(usable, number):
            layout = asked
            for way in some:
                layout = way.change(layout)
            if (bytes_ := peak(moments, subject, layout, device)) <= device.memory:
                found.append((" and ".join(way.says for way in some), bytes_))
        if found:
            return found
    return []


def shards_to_fit(
    moments: Sequence[Moment], subject: Architecture, device: Device, asked: Layout = Layout()
) -> int | None:
    """The fewest devices, a power of two up to 1024, on which it fits sharded; None if on none."""
    layouts = [replace(asked, shards=2**n) for n in range(11)] if asked.can_be_sharded else []
    return next((it.shards for it in layouts if peak(moments, subject, it, device) <= device.memory), None)
