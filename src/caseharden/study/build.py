"""From names and fields, as a spec file writes them, to the frozen objects that they stand for, and back.

A component is written as its name, or as ``{name: {field: value}}``. A name is looked up in the tables of
the packages, or imported if it is a path ``package.module:Class``. Where one value belongs, a list makes a
grid; where a list belongs, a list of lists does.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import to_json
from typing_extensions import get_protocol_members, is_protocol

from caseharden import attacks, defenses, domains, engines, judges, measures
from caseharden.domains.domain import Domain
from caseharden.engines.engine import Engine
from caseharden.errors import CasehardenError, nearest
from caseharden.judges.judge import Judge
from caseharden.measures.measure import Measure
from caseharden.train.tuner import Tuner

KINDS: dict[Any, tuple[str, Mapping[str, type]]] = {
    Tuner: ("attack or defense", {**attacks.TABLE, **defenses.TABLE}),
    Domain: ("domain", domains.TABLE),
    Engine: ("engine", engines.TABLE),
    Judge: ("judge", judges.TABLE),
    Measure: ("measure", measures.TABLE),
}
"""What a component is called in messages, and the table of its names, by protocol."""


def kind_of(protocol: Any) -> tuple[str, Mapping[str, type]]:
    """The entry of `KINDS`; for any other protocol, the ``TABLE`` of the module that defines it, if it has one."""
    own = getattr(sys.modules[protocol.__module__], "TABLE", {})
    return KINDS.get(protocol, (protocol.__name__.lower(), own))


def build(value: Any, hint: Any, place: str) -> Any:
    """The one object that `value` stands for where a `hint` belongs; `place` is named in errors."""
    found = variants(value, hint, place)
    if len(found) != 1:
        raise CasehardenError(f"{place}: a grid of {len(found)}, and only one fits here. Write one value.")
    return found[0]


def variants(value: Any, hint: Any, place: str) -> list[Any]:
    """Every object that `value` stands for, its grids multiplied out, the last one turning fastest."""
    sequence = _arm(hint, _is_sequence)
    nested = isinstance(value, list) and bool(value) and all(isinstance(item, list) for item in value)
    if isinstance(value, list) and (nested or not _arm(hint, _takes_list)):
        if not value:
            raise CasehardenError(f"{place}: an empty list leaves nothing to run. Give at least one value.")
        return [found for i, item in enumerate(value) for found in variants(item, hint, f"{place}[{i}]")]
    if value is None and NoneType in _arms(hint):
        return [None]
    if component := _arm(hint, is_protocol):
        return _components(value, component, place)
    if record := _arm(hint, dataclasses.is_dataclass):
        return _instances(record, value, place)
    if sequence and isinstance(value, list):
        items = [variants(item, get_args(sequence)[0], f"{place}[{i}]") for i, item in enumerate(value)]
        return list(product(*items))
    mapping = _arm(hint, _is_mapping)
    if mapping and isinstance(value, dict):
        choices = [variants(item, get_args(mapping)[1], within(place, key)) for key, item in value.items()]
        return [dict(zip(value, chosen, strict=True)) for chosen in product(*choices)]
    return [_plain(value, hint, place)]


def written(value: Any, hint: Any, *, all_fields: bool = True, without: Collection[str] = ()) -> Any:
    """`value` as a spec would write it: what `build` turns back into it.

    Without `all_fields`, fields that have their default value are left out, for people to read. So are fields
    that an object itself names in one of the attributes `without`: in ``knobs`` those that change no result.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = fields_of(value, all_fields=all_fields, without=without)
        kind = _arm(hint, is_protocol)
        return own if kind is None else ({name_of(value, kind): own} if own else name_of(value, kind))
    inner = partial(written, all_fields=all_fields, without=without)
    if isinstance(value, Mapping):
        args = get_args(_arm(hint, _is_mapping))
        return {name: inner(item, args[1] if args else Any) for name, item in value.items()}
    if isinstance(value, tuple | list):
        args = get_args(_arm(hint, _is_sequence))
        return [inner(item, args[0] if args else Any) for item in value]
    return str(value) if isinstance(value, Path) else value


def fields_of(value: Any, *, all_fields: bool = True, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a frozen object as a spec would write them: see `written` for which."""
    hints = _hints(value.__class__)
    left_out = {name for attribute in without for name in getattr(value, attribute, ())}
    return {
        field.name: written(getattr(value, field.name), hints[field.name], all_fields=all_fields, without=without)
        for field in dataclasses.fields(value)
        if field.init and field.name not in left_out
        if all_fields or getattr(value, field.name) != _default(field)
    }


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """The types of a class's fields; slow to find, since they are read from text."""
    return get_type_hints(cls)


def name_of(value: Any, kind: Any) -> str:
    """The name that a spec gives `value`'s class: the table's, or an import path."""
    names = {cls: name for name, cls in kind_of(kind)[1].items()}
    return names.get(type(value)) or f"{type(value).__module__}:{type(value).__qualname__}"


def within(place: str, name: object) -> str:
    """`place` extended by the name of a field."""
    return f"{place}.{name}" if place else str(name)


def as_json(value: Any) -> str:
    """JSON of a written form, the same text for the same content. Order counts: a data mix draws in order."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# ---- one component, one record, one value ---------------------------------------------------------------


def _components(value: Any, kind: Any, place: str) -> list[Any]:
    what = kind_of(kind)[0]
    if dataclasses.is_dataclass(value):
        return [value]  # built already
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or len(value) != 1 or not isinstance(next(iter(value)), str):
        raise CasehardenError(
            f"{place}: expected the name of one {what}, or {{name: {{field: value}}}}, not {value!r}."
        )
    ((name, given),) = value.items()
    cls = _class(name, kind, place)
    return _instances(cls, {} if given is None else given, within(place, name))


def _class(name: str, kind: Any, place: str) -> type:
    what, table = kind_of(kind)
    if name in table:
        return table[name]
    if ":" not in name:
        raise CasehardenError(
            f"{place}: there is no {what} {name!r}.{nearest(name, table)} One of your own is named by its "
            "import path, package.module:Class."
        )
    module, _, attribute = name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module is a program
        said = f"{type(error).__name__}: {error}"
        raise CasehardenError(f"{place}: cannot import {name!r} ({said}). Put it on PYTHONPATH.") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and _fits(cls, kind)):
        raise CasehardenError(f"{place}: {name!r} is no {what}: a dataclass that has all of {kind.__name__}.")
    return cls


def _fits(cls: type, kind: Any) -> bool:
    return get_protocol_members(kind) <= {*dir(cls), *(field.name for field in dataclasses.fields(cls))}


def _instances(cls: Any, given: Any, place: str) -> list[Any]:
    if not isinstance(given, dict):
        raise CasehardenError(f"{place}: expected fields, {{name: value}}, not {given!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = _hints(cls)
    for name in given:
        if name not in fields:
            guess = nearest(str(name), fields)
            raise CasehardenError(f"{within(place, name)}: {cls.__name__} has no field {name!r}.{guess}")
    missing = [name for name, field in fields.items() if name not in given and _default(field) is _REQUIRED]
    if missing:
        raise CasehardenError(f"{place or 'the spec'}: {cls.__name__} needs {', '.join(missing)} as well.")
    choices = [variants(value, hints[name], within(place, name)) for name, value in given.items()]
    try:
        return [cls(**dict(zip(given, chosen, strict=True))) for chosen in product(*choices)]
    except CasehardenError as error:
        raise CasehardenError(f"{place or cls.__name__}: {error}") from error


def _plain(value: Any, hint: Any, place: str) -> Any:
    try:  # through JSON, where pydantic's strict mode still takes an array for a tuple and a string for a path
        return _adapter(hint).validate_json(to_json(value), strict=True)
    except ValueError:  # no value of the kind, or half a character, which no JSON has
        raise CasehardenError(
            f"{place}: expected {inspect.formatannotation(hint)}, not {value!r} ({type(value).__name__})."
        ) from None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


_REQUIRED = object()


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _REQUIRED if field.default is dataclasses.MISSING else field.default


# ---- type hints -----------------------------------------------------------------------------------------


def _arms(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _arm(hint: Any, is_wanted: Any) -> Any:
    return next((arm for arm in _arms(hint) if is_wanted(arm)), None)


def _is_sequence(hint: Any) -> bool:
    """Of any length, each item of which may be a grid; ``tuple[int, int]`` is one value."""
    args = get_args(hint)
    return get_origin(hint) in (Sequence, list) or (get_origin(hint) is tuple and args[1:] == (...,))


def _takes_list(hint: Any) -> bool:
    """Whether a list is one value, and not alternatives."""
    return _is_sequence(hint) or get_origin(hint) is tuple


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) in (Mapping, dict)
