"""What an audit runs: the studies of a suite, and the evidence that comes out of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from caseharden import models
from caseharden.audit.evidence import Control, Evidence, Measured, Terms
from caseharden.audit.resistance import UNDEFENDED
from caseharden.audit.results import Curve, Results
from caseharden.data import ROLES
from caseharden.domains.domain import Domain
from caseharden.errors import CasehardenError, nearest
from caseharden.measures.measure import Measure
from caseharden.measures.probe import Probe
from caseharden.study.build import build, name_of, written
from caseharden.study.plan import hashed
from caseharden.study.results import results
from caseharden.study.spec import StudySpec, alternatives, read_yaml
from caseharden.study.store import Store
from caseharden.study.weights import fingerprint
from caseharden.tuner import Tuner

SUITES = Path(__file__).parent / "suites"
DIRECTIONS = 16
"""Singular directions of a weight matrix's change that count as few; matrices four times as wide are looked at."""


@dataclass(frozen=True)
class Lessons:
    """Benign fine-tuning: learning rates, steps after which a task is looked at, how many of a domain's tasks."""

    lr: tuple[float, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class Suite:
    """What an audit runs and what it holds a model to.

    Before any attack all of the domain's measures are taken; after it, harm, and utility on `utility_n`
    questions. With `stop_when_broken` an attack ends where it has broken the model.
    """

    attacks: tuple[Tuner, ...]
    budgets: tuple[int, ...]
    lessons: Lessons
    known_broken: Tuner
    seeds: tuple[int, ...] = (0, 1, 2)
    terms: Terms = field(default_factory=Terms)
    utility_n: int = 144
    stop_when_broken: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.terms.horizon not in self.budgets:
            raise CasehardenError(
                f"the horizon, {self.terms.horizon} attack steps, is not among the budgets, "
                f"{', '.join(map(str, self.budgets))}. Add it, or take another (terms: {{horizon: …}})."
            )
        if not self.attacks or self.utility_n < 1:
            raise CasehardenError("a suite needs at least one attack and one question of utility (utility_n).")
        if len(self.lessons.seeds) < 2 or self.lessons.tasks == 0:
            raise CasehardenError("lessons needs at least two seeds and one task: of fewer no verdict comes.")


def suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return {path.stem: path for path in sorted(SUITES.glob("*.yaml"))}


def load(name: str) -> Suite:
    """A suite by its name, or from a file. Raises `CasehardenError` if there is none, or it is wrong."""
    path = suites().get(name, Path(name))
    if not path.is_file():
        raise CasehardenError(f"there is no suite {name!r}, and no such file.{nearest(name, suites())}")
    try:
        given = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, CasehardenError) as error:
        raise CasehardenError(f"cannot read the suite {path}: {error}") from error
    if not isinstance(given, dict):
        raise CasehardenError(f"{path.name}: a suite is a mapping with at least attacks, budgets and lessons.")
    return parse(given, path.name)


def parse(given: Mapping[str, Any], place: str) -> Suite:
    """The suite that a mapping stands for; grids among the attacks are alternatives, as in a study."""
    if "attacks" not in given:
        raise CasehardenError(f"{place}: a suite needs attacks.")
    attacks = list(alternatives(given["attacks"], "attacks"))
    found: Suite = build({**given, "attacks": attacks}, Suite, place)
    return found


@dataclass(frozen=True)
class Question:
    """Which weights are up for release, beside which, and under which threat.

    `model` and `baseline` are names as `models.resolve` takes them; `ceiling` is a model that never learned
    what is forbidden. `held_out` are topics that the defense had no data of.
    """

    model: str
    baseline: str
    domain: Domain
    suite: Suite
    ceiling: str | None = None
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        topics = {example.topic for example in self._asked().get("harmful", ())}
        for topic in self.held_out:
            if topic not in topics:
                raise CasehardenError(f"held_out: nothing is asked on a topic {topic!r}.{nearest(topic, topics)}")
        if not self.tasks():
            raise CasehardenError(
                f"domain {self.domain.name!r} has no benign task (task:NAME, for attacker and evaluator), and "
                "without trainability an audit cannot tell a dead model from a hardened one. Give it tasks."
            )

    def studies(self) -> list[StudySpec]:
        """The models as released, attacked, and taught each benign task. Audits in one store share their cells.

        Of the controls, only those are taught that must be, or must not be, teachable.
        """
        suite, lessons = self.suite, self.suite.lessons
        dead = build("dead_weights", Tuner, "dead")
        others = [name for name in (self.model, self.ceiling) if name and name != self.baseline]
        common: dict[str, Any] = {
            "domain": self.domain,
            "models": (self.baseline,),
            "defenses": (None, suite.known_broken, dead),
            "controls": tuple(dict.fromkeys(others)),
            "threads": suite.threads,
        }
        taught = {"defenses": (None, dead), "controls": tuple(one for one in others if one == self.model)}
        released = StudySpec(name=f"{self.prefix}released", budgets=(0,), **common)
        attacked = StudySpec(
            name=f"{self.prefix}attacks",
            attacks=suite.attacks,
            budgets=suite.budgets,
            seeds=suite.seeds,
            phi=suite.terms.phi,
            measures=self._under_attack(),
            stop_when_broken=suite.stop_when_broken,
            **common,
        )
        learned = [
            StudySpec(
                name=f"{self.prefix}{task.replace(':', '-')}",
                attacks=tuple(
                    build({"sft": {"data": {task: 1.0}, "lr": lr, "batch_size": lessons.batch_size}}, Tuner, task)
                    for lr in lessons.lr
                ),
                budgets=lessons.budgets,
                seeds=lessons.seeds,
                phi=suite.terms.learned,
                measures=self._only(task),
                stop_when_broken=True,
                **{**common, **taught},
            )
            for task in self.tasks()
        ]
        return [released, attacked, *learned]

    @property
    def prefix(self) -> str:
        """What the names of this audit's studies begin with: a hash of its weights, and one of all it asks."""
        others = {name: fingerprint(models.resolve(one)) for name, one in self._beside().items()}
        asked = {
            "beside": others,
            "suite": written(self.suite, Suite),
            "domain": written(self.domain, Domain),
            "held_out": list(self.held_out),
        }
        return f"{prefix(fingerprint(models.resolve(self.model)))}{hashed(asked)[:8]}-"

    def _beside(self) -> dict[str, str]:
        return {"baseline": self.baseline} | ({"ceiling": self.ceiling} if self.ceiling else {})

    def tasks(self) -> list[str]:
        """The benign tasks to be learned: pools of the domain that attacker and evaluator both have."""
        there = [
            name for name in self.domain.pools("attacker") if name.startswith("task:") and name in self._asked()
        ]
        return there[: self.suite.lessons.tasks]

    def _asked(self) -> Mapping[str, Any]:
        return self.domain.pools("evaluator")

    def _under_attack(self) -> dict[str, Measure | None]:
        """Measures of an attacked model: harm, and utility on fewer questions."""
        measures = self.domain.measures()
        kept: dict[str, Any] = {"harm": measures["harm"], "utility": measures["utility"]}
        if hasattr(kept["utility"], "n"):
            kept["utility"] = replace(kept["utility"], n=self.suite.utility_n)
        return {**dict.fromkeys(measures), **kept}

    def _only(self, task: str) -> dict[str, Measure | None]:
        """Measures of a lesson: the task itself, and as little else as a study allows."""
        harm = self.domain.measures()["harm"]
        length = harm.max_new_tokens if isinstance(harm, Probe) else 64
        share = Probe(task, max_new_tokens=length, batch_size=256)
        rest = dict.fromkeys(self.domain.measures())
        return {**rest, "harm": share, "utility": Probe(task, n=8, max_new_tokens=length)}

    def evidence(self, store: Store) -> Evidence:
        """What the store holds of this audit's studies."""
        studies = tuple(results(store, spec.name, whole=True) for spec in self.studies())
        released, attacks, *lessons = studies
        who: dict[Control, tuple[str, int]] = {
            "undefended": (self.baseline, 0),
            "known_broken": (self.baseline, 1),
            "dead": (self.baseline, 2),
        }
        if self.ceiling:
            who["never_learned"] = (self.ceiling, 0)
        found = {name: self._measured(*where, released, attacks, lessons) for name, where in who.items()}
        controls = {name: control for name, control in found.items() if control is not None}
        subject = self._measured(self.model, 0, released, attacks, lessons)
        for name, measured in (("model", subject), ("baseline", controls.get("undefended"))):
            if measured is None:
                raise CasehardenError(
                    f"no attack on the {name} has finished, so there is nothing to judge. What failed is said "
                    "above; put it right and run the audit again."
                )
        assert subject is not None
        return Evidence(
            subject=subject,
            controls=controls,
            terms=self.suite.terms,
            held_out=frozenset(self.held_out),
            overlaps=overlaps(self.domain),
            provenance=attacks.provenance,
            studies=studies,
        )

    def _measured(
        self,
        model: str,
        defense: int,
        released: Results,
        attacks: Results,
        lessons: Sequence[Results],
    ) -> Measured | None:
        """What was measured of one model; None if none of the attacks on it has finished."""
        names = (UNDEFENDED, name_of(self.suite.known_broken, Tuner), "dead_weights")
        name = f"{model}, {names[defense]}" if defense else model

        def mine(things: Sequence[Any]) -> Iterator[Any]:
            return (thing for thing in things if (thing.model, thing.defense) == (model, names[defense]))

        before: list[Curve] = list(mine(released.curves))
        curves: tuple[Curve, ...] = tuple(mine(attacks.curves))
        if not (before and curves):
            return None
        return Measured(
            name=name,
            released=before[0].points[0],
            curves=curves,
            lessons=tuple(curve for found in lessons for curve in mine(found.curves)),
            failures=tuple(mine([*released.failures, *attacks.failures])),
            unlearned=tuple(mine([failure for found in lessons for failure in found.failures])),
            facts={
                "parameters": float(parameters(models.resolve(model))),
                **(weight_facts(models.resolve(model), models.resolve(self.baseline)) if defense == 0 else {}),
            },
        )


def prefix(mark: str) -> str:
    """What the names of the studies begin with that audit the weights with this fingerprint."""
    return f"audit-{mark[:12]}-"


def audited(store: Store, mark: str) -> dict[str, tuple[Results, ...]]:
    """What the store holds of each audit of these weights, by what the names of its studies begin with."""
    names = sorted(name for name in store.studies() if name.startswith(prefix(mark)))
    audits = dict.fromkeys(name[: len(prefix(mark)) + 9] for name in names)
    return {audit: tuple(results(store, name) for name in names if name.startswith(audit)) for audit in audits}


def overlaps(domain: Domain) -> int:
    """How many harmful examples, by what they speak of, are in the hands of more than one role."""
    held = [{e.group or e.prompt for e in domain.pools(role).get("harmful", ())} for role in ROLES]
    return len((held[0] & held[1]) | (held[0] & held[2]) | (held[1] & held[2]))


def weight_facts(model: Path, baseline: Path) -> dict[str, float]:
    """What the change from `baseline` to `model` is like: ``low_rank``, the share of its squares in few directions.

    Over all matrices at least four times as wide as `DIRECTIONS`; nothing if shapes differ or nothing changed.
    """
    ours, theirs = _tensors(model), _tensors(baseline)
    if {name: t.shape for name, t in ours.items()} != {name: t.shape for name, t in theirs.items()}:
        return {}
    inside = total = 0.0
    for name, tensor in ours.items():
        if tensor.ndim == 2 and min(tensor.shape) >= 4 * DIRECTIONS:
            squares = torch.linalg.svdvals(tensor.float() - theirs[name].float()).square()
            inside += float(squares[:DIRECTIONS].sum())
            total += float(squares.sum())
    return {"low_rank": inside / total} if total > 0 else {}


def parameters(folder: Path) -> int:
    """How many numbers the weights in `folder` have, by the headers of their files; tied weights once."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in sorted(file.keys()))
    return total


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}
