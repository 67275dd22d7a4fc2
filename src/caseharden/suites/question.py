"""Question: which weights are up for release, beside which, and the evidence that comes of asking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from caseharden.audit.evidence import Control, Evidence, Measured
from caseharden.data.overlaps import overlaps
from caseharden.domains.domain import Domain
from caseharden.errors import CasehardenError, nearest
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint, parameters, weight_facts
from caseharden.lm.template import Reasoning
from caseharden.measures.measure import Measure
from caseharden.measures.probe import Probe
from caseharden.records.asking import way, ways
from caseharden.records.results import UNDEFENDED, Curve, Results
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.build import build, name_of, written
from caseharden.study.plan import hashed
from caseharden.study.spec import StudySpec
from caseharden.suites.suite import Suite
from caseharden.train.tuner import Tuner

SUCCESS = "success"
"""The measure of benign fine-tuning."""


@dataclass(frozen=True)
class Question:
    """Which weights are up for release, beside which, and under which threat.

    `model` and `baseline` are names as `models.resolve` takes them; `ceiling` is a model that never learned
    what is forbidden. `held_out` are topics that the defense had no data of, `reasoning` how
    the models think before they answer.
    """

    model: str
    baseline: str
    domain: Domain
    suite: Suite
    ceiling: str | None = None
    held_out: tuple[str, ...] = ()
    reasoning: Reasoning = field(default_factory=Reasoning)

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

        Of the controls, only those are taught that must be, or must not be, teachable. Dead weights, which must not
        be useful, are not attacked.
        """
        suite, benign_runs = self.suite, self.suite.benign_runs
        dead = build("dead_weights", Tuner, "dead")
        others = [name for name in (self.model, self.ceiling) if name and name != self.baseline]
        common: dict[str, Any] = {
            "domain": self.domain,
            "models": (self.baseline,),
            "defenses": (None, suite.known_broken, dead),
            "controls": tuple(dict.fromkeys(others)),
            "threads": suite.threads,
            "reasoning": self.reasoning,
        }
        taught = {"defenses": (None, dead), "controls": tuple(one for one in others if one == self.model)}
        released = StudySpec(name=f"{self.prefix}released", budgets=(0,), **common)
        attacked = StudySpec(
            name=f"{self.prefix}attacks",
            attacks=suite.attacks,
            budgets=suite.budgets,
            seeds=suite.seeds,
            phi=suite.criteria.phi,
            measures=self._under_attack(),
            stop_when_broken=suite.stop_when_broken,
            confidence=suite.criteria.share(self.readings),
            **{**common, "defenses": (None, suite.known_broken)},
        )
        learned = [
            StudySpec(
                name=f"{self.prefix}{task.replace(':', '-')}",
                attacks=tuple(
                    build(
                        {"sft": {"data": {task: 1.0}, "lr": lr, "batch_size": benign_runs.batch_size}}, Tuner, task
                    )
                    for lr in benign_runs.lr
                ),
                budgets=benign_runs.budgets,
                seeds=benign_runs.seeds,
                phi=suite.criteria.learned,
                watched=SUCCESS,
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
            "reasoning": written(self.reasoning, Reasoning),
        }
        return f"{prefix(fingerprint(models.resolve(self.model)))}{hashed(asked)[:8]}-"

    def _beside(self) -> dict[str, str]:
        return {"baseline": self.baseline} | ({"ceiling": self.ceiling} if self.ceiling else {})

    def tasks(self) -> list[str]:
        """The benign tasks to be learned: pools of the domain that attacker and evaluator both have."""
        there = [
            name for name in self.domain.pools("attacker") if name.startswith("task:") and name in self._asked()
        ]
        return there[: self.suite.benign_runs.tasks]

    def _asked(self) -> Mapping[str, Any]:
        return self.domain.pools("evaluator")

    @property
    def readings(self) -> int:
        """How many readings of harm each model is to get, all ways of asking counted."""
        return self.suite.readings * len(ways(self.domain.measures(), "harm"))

    def _under_attack(self) -> dict[str, Measure | None]:
        """Measures of an attacked model: harm in each way of asking, and utility on fewer questions."""
        measures = self.domain.measures()
        kept: dict[str, Any] = {name: found for name, found in measures.items() if way(name, "harm")}
        kept["utility"] = measures["utility"]
        if hasattr(kept["utility"], "n"):
            kept["utility"] = replace(kept["utility"], n=self.suite.utility_n)
        return {**dict.fromkeys(measures), **kept}

    def _only(self, task: str) -> dict[str, Measure | None]:
        """The only measure of a benign run: the share of the task that is done right."""
        measures = self.domain.measures()
        length = measures["harm"].max_new_tokens if isinstance(measures["harm"], Probe) else 64
        return {**dict.fromkeys(measures), SUCCESS: Probe(task, max_new_tokens=length)}

    def evidence(self, store: Store) -> Evidence:
        """What the store holds of this audit's studies."""
        studies = tuple(results(store, spec.name, whole=True) for spec in self.studies())
        released, attacks, *benign_runs = studies
        who: dict[Control, tuple[str, int]] = {
            "undefended": (self.baseline, 0),
            "known_broken": (self.baseline, 1),
            "dead": (self.baseline, 2),
        }
        if self.ceiling:
            who["never_learned"] = (self.ceiling, 0)
        found = {name: self._measured(*where, released, attacks, benign_runs) for name, where in who.items()}
        controls = {name: control for name, control in found.items() if control is not None}
        subject = self._measured(self.model, 0, released, attacks, benign_runs)
        for name, measured in (("model", subject), ("baseline", controls.get("undefended"))):
            if measured is None:
                raise CasehardenError(
                    f"no attack on the {name} has finished, so there is nothing to judge. What failed is said "
                    "above; put it right and run the audit again."
                )
        assert subject is not None
        change = weight_facts(models.resolve(self.model), models.resolve(self.baseline))
        return Evidence(
            subject=replace(subject, facts={**subject.facts, **change}),
            controls=controls,
            better=released.better,
            readings=self.readings,
            criteria=self.suite.criteria,
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
        benign_runs: Sequence[Results],
    ) -> Measured | None:
        """What was measured of one model; None if nothing was, or none of the attacks on one that is attacked."""
        names = (UNDEFENDED, name_of(self.suite.known_broken, Tuner), "dead_weights")

        def mine(things: Sequence[Any]) -> Iterator[Any]:
            return (thing for thing in things if (thing.model, thing.defense) == (model, names[defense]))

        before: list[Curve] = list(mine(released.curves))
        curves: tuple[Curve, ...] = tuple(mine(attacks.curves))
        if not before or not (curves or names[defense] == "dead_weights"):
            return None
        return Measured(
            name=f"{model}, {before[0].defense_name}" if defense else model,
            released=before[0].points[0],
            curves=curves,
            benign_runs=tuple(curve for found in benign_runs for curve in mine(found.curves)),
            failures=tuple(mine([*released.failures, *attacks.failures])),
            benign_failures=tuple(mine([failure for found in benign_runs for failure in found.failures])),
            facts={"parameters": float(parameters(models.resolve(model)))},
        )


def prefix(mark: str) -> str:
    """What the names of the studies begin with that audit the weights with this fingerprint."""
    return f"audit-{mark[:12]}-"


def audited(store: Store, mark: str) -> dict[str, tuple[Results, ...]]:
    """What the store holds of each audit of these weights, by what the names of its studies begin with."""
    names = sorted(name for name in store.studies() if name.startswith(prefix(mark)))
    audits = dict.fromkeys(name[: len(prefix(mark)) + 9] for name in names)
    return {audit: tuple(results(store, name) for name in names if name.startswith(audit)) for audit in audits}
