"""What methods are called: one short name each, the same in every table, chart and file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

WORD = re.compile(r"(?!(?:true|false|none|inf|nan)$)[A-Za-z_./][\w./:@-]*")
"""Text that can stand without quotation marks, and is taken for nothing else."""


def called(name: str, fields: Mapping[str, Any]) -> str:
    """A method's short name: ``sft(lr=3e-4, lora)``, and of stages one after another ``patcher(loops=24)+sft``.

    `fields` are as a study file writes them, those at their defaults left out. Different ones give different names.
    """
    stages = fields.get("stages", ())
    if len(fields) == 1 and isinstance(stages, list | tuple) and len(stages) > 1:
        return "+".join(map(_value, stages))
    told = {name: _field(name, value) for name, value in fields.items()}
    inside = ", ".join(sorted(told.values(), key=lambda text: text in told))  # bare words last
    return f"{name}({inside})" if inside else name


def model_name(model: str) -> str:
    """A model's name, with the hashes of weights that are kept in a store cut short."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", model)


def _field(name: str, value: Any) -> str:
    if value is True or value == {}:
        return name
    if isinstance(value, Mapping) and not _is_component(value):
        return called(name, value)
    return f"{name}={_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        ((name, fields),) = value.items() if _is_component(value) else (("", value),)
        return called(name, fields)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    text = str(value)
    return text if isinstance(value, int) or WORD.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _is_component(value: Mapping[str, Any]) -> bool:
    """Whether it is ``{name: {field: value}}``."""
    return len(value) == 1 and all(isinstance(fields, Mapping) for fields in value.values())


def _number(value: float) -> str:
    """The shortest text that is read as the same number: ``0.05``, ``3e-4``."""
    plain = repr(value).removesuffix(".0")
    if not math.isfinite(value) or value == 0:
        return plain
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    first, *rest = map(str, digits)
    scientific = f"{'-' * sign}{first}{'.' * bool(rest)}{''.join(rest)}e{len(rest) + int(exponent)}"
    return min(plain, scientific, key=len)
