"""What a study is to run, as a YAML file says it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import yaml

from caseharden.data.text import is_text
from caseharden.domains.domain import Domain
from caseharden.engines.engine import Engine
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError, nearest
from caseharden.judges.judge import Judge, is_exact
from caseharden.lm.lm import Precision
from caseharden.lm.machine import Placed, check_threads, device_of
from caseharden.lm.memory import Memory
from caseharden.lm.template import Reasoning
from caseharden.measures.measure import Measure
from caseharden.records.asking import ways
from caseharden.rl.loop import PolicyGradient
from caseharden.rl.rewards import Reward
from caseharden.study.build import variants, written
from caseharden.train.tuner import Tuner, end_of


@dataclass(frozen=True)
class StudySpec:
    """Every model × defense × attack × seed, measured at each budget (attack steps).

    The defense `None` (``none`` in a file) is the model as it is. `controls` are further models that are
    attacked as they are: what no defense can beat, or what every defense must. `measures` adds to the
    domain's own, or takes their place by name. `phi` is the harm above which a model counts as broken; where
    something else is `watched`, say how well a benign task is done, above which it counts as learned. With
    `stop_when_broken` an attack ends once a reading is above it with this (one-sided) `confidence`.
    `engine` writes every answer, of rollouts and of measures. `reasoning` says how the models think before it.
    `memory` says how training is made to fit, and decides no result. `threads` bounds PyTorch's threads on the
    CPU; without it they are left alone.
    """

    name: str
    domain: Domain
    models: tuple[str, ...]
    attacks: tuple[Tuner, ...] = ()
    defenses: tuple[Tuner | None, ...] = (None,)
    controls: tuple[str, ...] = ()
    budgets: tuple[int, ...] = (0, 10, 20, 50, 100)
    seeds: tuple[int, ...] = (0,)
    defense_seeds: tuple[int, ...] = (0,)
    measures: Mapping[str, Measure | None] = field(default_factory=dict)
    phi: float = 0.5
    watched: str = "harm"
    engine: Engine = field(default_factory=Native)
    reasoning: Reasoning = field(default_factory=Reasoning)
    precision: Precision = "auto"
    memory: Memory = field(default_factory=Memory)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    keep_attacked: bool = False
    stop_when_broken: bool = False
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if (
            not self.name.strip()
            or not self.name.isprintable()
            or {*self.name} & {*"/\\"}
            or set(self.name) == {"."}
        ):
            raise CasehardenError(f"name is {self.name!r}, which names no folder. Give letters and digits.")
        if list(self.budgets) != sorted({0, *self.budgets}):
            raise CasehardenError(f"budgets must begin with 0 and rise, not {list(self.budgets)}.")
        for name in ("models", "defenses", "controls", "attacks", "seeds", "defense_seeds"):
            values = getattr(self, name)
            if not values and name not in ("attacks", "controls"):
                raise CasehardenError(f"{name} is empty. Give at least one value.")
            decisive = [written(value, Tuner, without=("knobs",)) for value in values]
            for i, value in enumerate(values):
                if decisive[i] in decisive[:i]:
                    raise CasehardenError(f"{name} has {value!r} twice. Take one of them out.")
        for defense in self.defenses:
            if getattr(defense, "max_steps", 0) is None:
                raise CasehardenError(f"defenses has {defense}, which never ends. Give it max_steps.")
        for attack in self.attacks:
            end = getattr(attack, "max_steps", None)
            if (over := end_of(attack)) is not None:
                if over not in self.budgets:
                    raise CasehardenError(
                        f"attacks has {attack}, which is over at step {over}. Add it to the budgets."
                    )
            elif end is not None and end < self.budgets[-1]:
                raise CasehardenError(
                    f"attacks has {attack}, which ends at step {end}, before the last budget, {self.budgets[-1]}. "
                    "Raise its max_steps, or leave out the budgets that it does not reach."
                )
        if both := {*self.models} & {*self.controls}:
            raise CasehardenError(f"{min(both)!r} is among the models and the controls. Take it out of one.")
        if getattr(self.engine, "released_only", False):
            changing = [*self.attacks, *filter(None, self.defenses)]
            models = [*self.models, *self.controls]
            if changing or len(models) > 1:
                what = type(changing[0]).__name__ if changing else f"{len(models)} models"
                raise CasehardenError(
                    f"the engine {type(self.engine).__name__} writes with the one model that a server has, as "
                    f"it was released, and the study has {what}. Leave out attacks, defenses and other models, or "
                    "take another engine."
                )
        if self.attacks and len(self.budgets) < 2:
            raise CasehardenError("the only budget is 0, at which no attack has done anything yet. Add more.")
        needed = {"harm", "utility"} if self.watched == "harm" else {self.watched}
        for name in (name for name, measure in self.measures.items() if measure is None):
            if name in needed:
                raise CasehardenError(f"measures leaves out {name}, which this study needs. Leave out others.")
            if name not in (own := self.domain.measures()):  # which may read data: only asked where it must be
                raise CasehardenError(f"measures leaves out {name!r}, which is not there.{nearest(name, own)}")
        if self.watched != "harm" and self.watched not in (known := self.all_measures()):
            raise CasehardenError(f"watched: there is no measure {self.watched!r}.{nearest(self.watched, known)}")
        self._check_judges()
        if not 0 <= self.phi < 1:
            raise CasehardenError(f"phi is a share of answers, from 0 to below 1, not {self.phi}.")
        check_threads(self.threads)
        if not 0.5 <= self.confidence < 1:
            raise CasehardenError(f"confidence is from 0.5 to below 1, not {self.confidence}.")

    def _check_judges(self) -> None:
        """Raise `CasehardenError` if whoever rewards also reports: its blind spots would pass for results."""
        rewarding = [(tuner, judge) for tuner in (*self.attacks, *self.defenses) for judge in rewards_by(tuner)]
        inexact = [(tuner, judge) for tuner, judge in rewarding if not is_exact(judge)]
        if not inexact:
            return
        asked = ways(self.all_measures(), self.watched).values()
        reporting = [judge for measure in asked for judge in among(measure.judge, Judge)]
        for tuner, judge in inexact:
            if judge in reporting:
                raise CasehardenError(
                    f"{type(judge).__name__} rewards {type(tuner).__name__} and reports {self.watched} as well, so "
                    f"what it cannot see would count twice. Reward by another judge, or measure {self.watched} by "
                    "another."
                )

    def all_measures(self) -> dict[str, Measure]:
        """What is measured at each budget, by name: the domain's measures and the study's; None leaves one out."""
        wanted = {**self.domain.measures(), **self.measures}
        return {name: measure for name, measure in wanted.items() if measure is not None}

    def to_dict(self, *, all_fields: bool = True) -> dict[str, Any]:
        """As a file would say it; without `all_fields`, leaving out what is at its default."""
        found: dict[str, Any] = written(self, StudySpec, all_fields=all_fields)
        if "defenses" in found:
            found["defenses"] = [one or "none" for one in found["defenses"]]
        return found

    def to_yaml(self) -> str:
        """The file that says this, defaults left out."""
        return as_yaml(self.to_dict(all_fields=False))


def load(path: Path) -> StudySpec:
    """Read a spec file. Raises `CasehardenError` that names the file and the place in it."""
    try:
        return parse(read_yaml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise CasehardenError(f"cannot read the study {path}: {error}") from error
    except CasehardenError as error:
        raise CasehardenError(f"{path.name}: {error}") from error


def parse(given: Any) -> StudySpec:
    """The spec that a mapping stands for. Several defenses and attacks, and grids of them, are alternatives."""
    if not isinstance(given, dict):
        raise CasehardenError("a study is a mapping with at least name, domain and models.")
    flat = {name: list(alternatives(given[name], name)) for name in ("defenses", "attacks") if name in given}
    specs: list[StudySpec] = variants({**given, **flat}, StudySpec, "")
    if len(specs) != 1:
        raise CasehardenError("only attacks and defenses make grids; another field has a list for one value.")
    return specs[0]


def alternatives(given: Any, place: str) -> Iterator[Tuner | None]:
    """Every tuner that a list of them stands for, grids multiplied out; None where it says none."""
    for i, item in enumerate(given if isinstance(given, list) else [given]):
        yield from [None] if item in (None, "none") else variants(item, Tuner, f"{place}[{i}]")


def rewards_by(tuner: Any) -> Iterator[Judge]:
    """The judges that reward anything in `tuner`: not those of fields that it names in ``logged``.

    A policy gradient makes a reward of any of its fields, so all of its other judges count.
    """
    for rewarded in among(tuner, Reward | PolicyGradient, without=("logged",)):
        yield from among(rewarded, Judge, without=("logged",))


def named_devices(spec: StudySpec) -> list[str]:
    """The devices that methods of a study name for themselves, as a simulated attacker may."""
    parts = (spec.defenses, spec.attacks, spec.all_measures())
    return [placed.device for placed in among(parts, Placed) if placed.device is not None]


def computing_on(spec: StudySpec, *, elsewhere: bool = False) -> torch.device:
    """The device that a study computes on: ``auto`` is what this process finds.

    One that is named need not be here if cells are worked on `elsewhere`. Raises `CasehardenError` otherwise.
    """
    return torch.device(spec.device) if elsewhere and spec.device != "auto" else device_of(spec.device)


def among(thing: Any, protocol: Any, *, without: Collection[str] = ()) -> Iterator[Any]:
    """`thing` itself and whatever stands in its fields, at any depth, as far as it keeps to `protocol`.

    Fields that an object itself names in one of the attributes `without` are left out.
    """
    if isinstance(thing, protocol):
        yield thing
    if dataclasses.is_dataclass(thing):
        left_out = {name for attribute in without for name in getattr(thing, attribute, ())}
        names = [field.name for field in dataclasses.fields(thing) if field.name not in left_out]
        inner = [getattr(thing, name) for name in names]
    else:
        inner = [*thing.values()] if isinstance(thing, Mapping) else [*thing] if isinstance(thing, tuple) else []
    for one in inner:
        yield from among(one, protocol, without=without)


def read_yaml(text: str) -> Any:
    """What a YAML text says, by version 1.2: ``1e-4`` is a number; ``1_000``, ``1:30`` and ``yes`` are texts.

    So is ``010``, of which version 1.1 made 8 and 1.2 makes 10: whoever writes it is not left to guess.
    Keys are texts, and one that comes twice is an error. Raises `CasehardenError` for what is no such YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise CasehardenError(f"this is no YAML: {error}") from error


def as_yaml(value: Any) -> str:
    """The text that `read_yaml`, and a reader of YAML 1.1, takes for `value`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Checks nodes as they are composed: later, `<<` has mixed the keys of one mapping into another."""

    yaml_constructors: ClassVar = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")))
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None and node.end_mark is None:
            raise _misread(node, "this contains itself. Write out what belongs there.")
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if not is_text(node.value):
            raise _misread(node, f"{node.value!r} has half a character. Write the character itself.")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in (TAG + "str", TAG + "merge"):
                raise _misread(key, f"the key {key.value} is no text. Put it in quotes.")
            if key.value in seen:
                raise _misread(key, f"{key.value} is given twice.")
            seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what either version of YAML would take for something else than a text."""


def _misread(node: yaml.Node, what: str) -> CasehardenError:
    return CasehardenError(f"line {node.start_mark.line + 1}: {what}")


_Loader.yaml_implicit_resolvers = {}  # those of version 1.1; below the core schema of 1.2, without leading zeros
for _name, _written, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    for _either in (_Loader, _Dumper):
        _either.add_implicit_resolver(TAG + _name, re.compile(f"^({_written})$"), [*_first])
