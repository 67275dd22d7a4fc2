"""What a study consists of: its cells, in the order they run, and the key of each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from caseharden.data.pools import fingerprint
from caseharden.engines.engine import Engine
from caseharden.errors import CasehardenError, nearest
from caseharden.judges.judge import Judge, is_exact
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint as weights
from caseharden.lm.template import Reasoning
from caseharden.measures.measure import Measure
from caseharden.records.asking import way
from caseharden.records.names import called
from caseharden.records.results import BETTER, UNDEFENDED, Better, Traits, is_bystander
from caseharden.study import provenance
from caseharden.study.build import as_json, fields_of, name_of, written
from caseharden.study.spec import StudySpec, among, rewards_by
from caseharden.train.optim import Descends
from caseharden.train.tuner import NamesModels, Tuner, end_of

Kind = Literal["harden", "release", "attack"]


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    ``harden`` makes weights, ``release`` measures a model as it is released (budget 0 of every attack on
    it), ``attack`` attacks it and measures at each budget above 0. `parent` is the position of the cell
    that makes the weights it starts from; None starts from the model's own.
    """

    kind: Kind
    model: str
    defense: Tuner | None
    defense_seed: int
    parent: int | None
    attack: Tuner | None = None
    seed: int = 0
    defense_fields: Mapping[str, Any] = field(default_factory=dict)
    attack_fields: Mapping[str, Any] = field(default_factory=dict)
    traits: Traits = field(default_factory=lambda: Traits({}))

    @property
    def tuner(self) -> Tuner | None:
        """What changes weights in this cell."""
        return self.defense if self.kind == "harden" else self.attack

    def labels(self) -> dict[str, Any]:
        """What the study calls this cell: names, and the fields that tell it from its like."""
        return {
            "kind": self.kind,
            "model": self.model,
            "defense": name_of(self.defense, Tuner) if self.defense else UNDEFENDED,
            "defense_fields": dict(self.defense_fields),
            "defense_seed": self.defense_seed,
            "attack": name_of(self.attack, Tuner) if self.attack else "",
            "fields": dict(self.attack_fields),
            "traits": asdict(self.traits),
            "seed": self.seed,
            "names": {
                "defense": short_name(self.defense) if self.defense else UNDEFENDED,
                "attack": short_name(self.attack) if self.attack else "",
            },
        }


def plan(spec: StudySpec) -> list[Cell]:
    """The study's cells: each hardened model with everything that is done to it, one after another."""
    cells: list[Cell] = []
    attacks = [*zip(spec.attacks, telling(spec.attacks), traits(spec.attacks), strict=True)]
    every = iter(telling(defense for defense in spec.defenses if defense))
    defended = [(defense, next(every) if defense else {}) for defense in spec.defenses]
    for model, defenses in [(m, defended) for m in spec.models] + [(c, [(None, {})]) for c in spec.controls]:
        for defense, told in defenses:
            for defense_seed in spec.defense_seeds if defense else spec.defense_seeds[:1]:
                parent = None
                if defense:
                    parent = len(cells)
                    cells.append(Cell("harden", model, defense, defense_seed, None, defense_fields=told))
                cells.append(Cell("release", model, defense, defense_seed, parent, defense_fields=told))
                cells += [
                    Cell("attack", model, defense, defense_seed, parent, attack, seed, told, fields, its_traits)
                    for attack, fields, its_traits in attacks
                    for seed in spec.seeds
                ]
    return cells


def telling(tuners: Iterable[Tuner], without: Collection[str] = ()) -> list[dict[str, Any]]:
    """Of each tuner, the fields that are not at their defaults, or in which others of its class differ from it.

    Those that a tuner names in one of the attributes `without` are left out.
    """
    every = [(tuner, fields_of(tuner, without=without)) for tuner in tuners]
    values: dict[tuple[type, str], set[str]] = defaultdict(set)
    for tuner, fields in every:
        for name, value in fields.items():
            values[type(tuner), name].add(as_json(value))
    found = []
    for tuner, fields in every:
        short = fields_of(tuner, all_fields=False, without=without)
        varied = {name for name in fields if len(values[type(tuner), name]) > 1}
        found.append({name: short.get(name, fields[name]) for name in fields if name in varied | {*short}})
    return found


def short_name(tuner: Tuner) -> str:
    """What reports call a tuner: its name, with the fields that are not at their defaults."""
    return called(name_of(tuner, Tuner), fields_of(tuner, all_fields=False))


def traits(attacks: Sequence[Tuner]) -> list[Traits]:
    """What each attack says that its fields mean, in plain values; of one that says nothing, its fields alone."""
    return [
        Traits(
            fixed=fixed,
            rates=tuple(rate for part in parts for rate in _named(part, "rates").values()),
            bounds=_named(attack, "bounds"),
            pools=tuple(pool for part in parts for mix in _named(part, "mixes").values() for pool in mix),
            judges=tuple(dict.fromkeys(judge_name(judge) for judge in rewards_by(attack) if not is_exact(judge))),
            ends=end_of(attack),
            models=tuple(named_models(attack)),
        )
        for attack, fixed in zip(attacks, telling(attacks, without=("rates", "knobs")), strict=True)
        for parts in [list(among(attack, Tuner))]
    ]


def _named(tuner: Tuner, attribute: str) -> dict[str, Any]:
    """The fields that a tuner names in one of its attributes. Raises `CasehardenError` if it has no such field."""
    fields, names = fields_of(tuner), getattr(tuner, attribute, ())
    for name in names:
        if name not in fields:
            known = nearest(name, fields)
            raise CasehardenError(
                f"{type(tuner).__name__} names {name!r} in {attribute}, and has no such field.{known}"
            )
    return {name: fields[name] for name in names}


def better(name: str, measure: Measure) -> Better | None:
    """Which way a measure is better: harm, utility and bystanders as everywhere, others as they say themselves.

    Raises `CasehardenError` where a measure of such a name says otherwise, or has the name of a further judge's
    reading.
    """
    if "@" in name:
        raise CasehardenError(
            f"measures: {name!r} reads as MEASURE@JUDGE, another judge's scores. Leave out the @."
        )
    known = "higher" if is_bystander(name) else BETTER.get(name) or ("lower" if way(name, "harm") else None)
    said: Better | None = getattr(measure, "better", None)
    if known and said and said != known:
        raise CasehardenError(f"measures: {name} is better {known}, not {said}. Leave `better` out, or rename it.")
    return known or said


def directions(spec: StudySpec) -> dict[str, Better]:
    """Which way the study's measures are better, as far as that is known."""
    found = {name: better(name, measure) for name, measure in sorted(spec.all_measures().items())}
    return {name: way for name, way in found.items() if way}


@dataclass(frozen=True)
class Environment:
    """What all cells of a study have in common that decides their results."""

    domain: str
    measures: Mapping[str, Any]
    engine: Mapping[str, Any]
    reasoning: Mapping[str, Any]
    code: str
    packages: Mapping[str, str]
    other_models: Mapping[str, str]
    precision: str
    device: str

    @classmethod
    def of(cls, spec: StudySpec, device: str) -> Environment:
        return cls(
            domain=fingerprint(spec.domain),
            measures={name: described(measure) for name, measure in sorted(spec.all_measures().items())},
            engine={
                "spec": written(spec.engine, Engine, without=("knobs",)),
                "version": getattr(spec.engine, "version", ""),
                "foreign_code": provenance.foreign_code(spec.engine),
            },
            reasoning=written(spec.reasoning, Reasoning),
            code=provenance.code(),
            packages=provenance.packages(),
            other_models={name: weights(models.resolve(name)) for name in named_models(spec)},
            precision=spec.precision,
            device=device,
        )

    def inputs(self, cell: Cell, parent: str) -> dict[str, Any]:
        """Everything that decides what comes out of `cell`, begun on weights with fingerprint `parent`.

        Not the budgets of an attack: what it does does not depend on when it is looked at.
        """
        found: dict[str, Any] = {"kind": cell.kind, "parent": parent, **vars(self)}
        found["other_models"] = {name: self.other_models[name] for name in named_models(cell.tuner)}
        if cell.kind == "harden":
            del found["measures"]
        if cell.tuner:
            found["tuner"] = written(cell.tuner, Tuner, without=("knobs",))
            found["seed"] = cell.defense_seed if cell.kind == "harden" else cell.seed
            if cell.traits.ends is not None:
                found["ends"] = cell.traits.ends
            found["judge_versions"] = [judge.version for judge in among(cell.tuner, Judge)]
            found["foreign_code"] = provenance.foreign_code(cell.tuner)
            found["packages"] = {**self.packages, **provenance.optimizers(among(cell.tuner, Descends))}
        return found


def named_models(thing: Any) -> list[str]:
    """The models that tuners within `thing` name in their fields, each once."""
    parts = among(thing, NamesModels)
    return sorted({getattr(part, field) for part in parts for field in part.other_models})


def described(measure: Measure) -> dict[str, Any]:
    """A measure with its judge's version: what decides its readings of a given model."""
    return {
        "spec": written(measure, Measure, without=("knobs",)),
        "judge_version": measure.judge.version if measure.judge else "",
        "foreign_code": provenance.foreign_code(measure),
    }


def judge_name(judge: Judge | None) -> str:
    """How records call a judge: its name, with the fields that are not at their defaults."""
    short = written(judge, Judge, all_fields=False, without=("knobs",)) if judge else ""
    return short if isinstance(short, str) else as_json(short)


def hashed(value: Any) -> str:
    """SHA-256 of a written form."""
    return hashlib.sha256(as_json(value).encode()).hexdigest()
