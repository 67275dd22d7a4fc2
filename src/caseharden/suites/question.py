"""Question: which weights are up for release, beside which, and the evidence that comes of asking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from caseharden.audit.conditions import resists
from caseharden.audit.evidence import Control, Evidence, Measured, Searched
from caseharden.data.overlaps import overlaps
from caseharden.domains.domain import Domain
from caseharden.errors import CasehardenError, nearest
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint, parameters, weight_facts
from caseharden.lm.lm import Precision
from caseharden.lm.memory import PLENTY, Memory
from caseharden.lm.template import Reasoning
from caseharden.measures.measure import Measure, by_at_most
from caseharden.measures.probe import Probe
from caseharden.records.asking import way, ways
from caseharden.records.results import PLAIN, UNDEFENDED, Curve, Results
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.build import build, name_of, written
from caseharden.study.plan import hashed
from caseharden.study.spec import StudySpec
from caseharden.suites.fitting import fitted
from caseharden.suites.suite import Stage, Suite
from caseharden.train.tuner import Tuner

SUCCESS = "success"
"""The measure of benign fine-tuning."""
ATTACKS, CONTROLS = "attacks-", "controls-"
"""What the names of a stage's studies begin with, after the audit's own prefix."""
DEAD: Tuner = build("dead_weights", Tuner, "dead")


@dataclass(frozen=True)
class Question:
    """Which weights are up for release, beside which, and under which threat.

    `model` and `baseline` are names as `models.resolve` takes them; `ceiling` is a model that never learned
    what is forbidden. `held_out` are topics that the defense had no data of, `reasoning` how the models think
    before they answer, `precision` what they compute in, `memory` how training is made to fit. Only if
    `base_public` can an attacker have the baseline's weights.
    """

    model: str
    baseline: str
    domain: Domain
    suite: Suite
    ceiling: str | None = None
    held_out: tuple[str, ...] = ()
    reasoning: Reasoning = field(default_factory=Reasoning)
    precision: Precision = "auto"
    memory: Memory = PLENTY
    base_public: bool = False

    def __post_init__(self) -> None:
        topics = {example.topic for example in self._asked().get("harmful", ())}
        if not self.stages:
            raise CasehardenError(
                "none of the suite's attacks can be run here: "
                f"{'; '.join(self.left_out)}. Take another suite, or give the domain what they need."
            )
        for topic in self.held_out:
            if topic not in topics:
                raise CasehardenError(f"held_out: nothing is asked on a topic {topic!r}.{nearest(topic, topics)}")
        if not self.tasks():
            raise CasehardenError(
                f"domain {self.domain.name!r} has no benign task (task:NAME, for attacker and evaluator), and "
                "without trainability an audit cannot tell a dead model from a hardened one. Give it tasks."
            )

    def studies(self) -> list[StudySpec]:
        """All that there is to run: as released, each stage of attacks, and each benign task.

        Not what searches will find; but what such attacks cannot do with the suite's budgets is an error now.
        """
        for stage in self.stages:
            for search in stage.searches:
                self.attacks(replace(stage, attacks=(search.example,)))
        attacks = [spec for stage in self.stages for spec in self.attacks(stage)]
        return [self.released(), *attacks, *self.benign_runs()]

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The suite's stages with what can be run of them here (see `fitted`); not those without anything."""
        return tuple(stage for stage, _ in self._fitted if stage.attacks or stage.searches)

    @cached_property
    def left_out(self) -> Counter[str]:
        """How many of the suite's attacks cannot be run here, by the reason."""
        return sum((left_out for _, left_out in self._fitted), Counter())

    @cached_property
    def _fitted(self) -> list[tuple[Stage, Counter[str]]]:
        base = self.baseline if self.base_public else None
        return [fitted(stage, self.domain, base) for stage in self.suite.stages]

    def released(self) -> StudySpec:
        """All models as released, by every measure of the domain."""
        defenses = (None, self.suite.known_broken, DEAD)
        return StudySpec(name=f"{self.prefix}released", budgets=(0,), **self._common(defenses, *self._others()))

    def attacks(self, stage: Stage) -> list[StudySpec]:
        """A stage of attacks on the model and the baseline, and with one seed on controls that show that it works.

        Dead weights, which must not be useful, are not attacked.
        """
        suite = self.suite
        attacked: dict[str, Any] = {
            "attacks": stage.attacks,
            "budgets": suite.budgets,
            "phi": suite.criteria.phi,
            "measures": self._under_attack(),
            "stop_when_broken": suite.stop_when_broken,
            "confidence": suite.criteria.share(self.readings),
        }
        subject = [one for one in self._others() if one == self.model]
        controls = [one for one in self._others() if one != self.model]
        parts = (
            (f"{ATTACKS}{stage.name}", suite.seeds, self._common((None,), *subject)),
            (f"{CONTROLS}{stage.name}", suite.seeds[:1], self._common((suite.known_broken,), *controls)),
        )
        return [StudySpec(name=f"{self.prefix}{n}", seeds=s, **attacked, **common) for n, s, common in parts]

    def benign_runs(self) -> list[StudySpec]:
        """Each benign task, taught to the model and the baseline; and, as little as shows it, to dead weights."""
        runs = self.suite.benign_runs
        subject = [one for one in self._others() if one == self.model]
        parts = (
            ("", runs.lr, runs.seeds, self._common((None,), *subject)),
            (CONTROLS, runs.lr[-1:], runs.seeds, self._common((DEAD,))),
        )
        return [
            StudySpec(
                name=f"{self.prefix}{part}{task.replace(':', '-')}",
                attacks=tuple(
                    build({"sft": {"data": {task: 1.0}, "lr": rate, "batch_size": runs.batch_size}}, Tuner, task)
                    for rate in rates
                ),
                budgets=runs.budgets,
                seeds=seeds,
                phi=self.suite.criteria.learned,
                watched=SUCCESS,
                measures=self._only(task),
                stop_when_broken=True,
                **common,
            )
            for task in self.tasks()
            for part, rates, seeds, common in parts
        ]

    def _others(self) -> list[str]:
        """The models beside the baseline, each once."""
        found = dict.fromkeys(name for name in (self.model, self.ceiling) if name)
        return [name for name in found if name != self.baseline]

    def _common(self, defenses: tuple[Tuner | None, ...], *controls: str) -> dict[str, Any]:
        return {
            "domain": self.domain,
            "models": (self.baseline,),
            "defenses": defenses,
            "controls": controls,
            "threads": self.suite.threads,
            "reasoning": self.reasoning,
            "precision": self.precision,
            "memory": self.memory,
        }

    @property
    def prefix(self) -> str:
        """What the names of this audit's studies begin with: a hash of its weights, and one of all it asks."""
        others = {name: fingerprint(models.resolve(one)) for name, one in self._beside().items()}
        asked = {
            "beside": others,
            "suite": written(self.suite, Suite),
            "domain": written(self.domain, Domain),
            "held_out": list(self.held_out),
            "base_public": self.base_public,
            "reasoning": written(self.reasoning, Reasoning),
            "precision": self.precision,
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
        """How many readings of harm each model is to get, all ways of asking counted, in all stages."""
        released, attacked = (
            sum(found is not None for found in ways(measures, "harm").values())
            for measures in (self.domain.measures(), self._under_attack())
        )
        attacks = sum(len(stage.attacks) + len(stage.searches) for stage in self.stages)
        runs = attacks * len(self.suite.seeds)
        return released + runs * (len(self.suite.budgets) - 1) * attacked

    def _under_attack(self) -> dict[str, Measure | None]:
        """Measures of an attacked model: harm as the suite asks for it, and utility on fewer questions."""
        measures, suite = self.domain.measures(), self.suite
        hows = {name: how for name in measures if (how := way(name, "harm"))}
        kept = {
            name: by_at_most(suite.harm_n, measures[name])
            for name, how in hows.items()
            if suite.asked is None or how in (PLAIN, *suite.asked)
        }
        return {**dict.fromkeys(measures), **kept, "utility": by_at_most(suite.utility_n, measures["utility"])}

    def _only(self, task: str) -> dict[str, Measure | None]:
        """The only measure of a benign run: the share of the task that is done right."""
        measures = self.domain.measures()
        length = measures["harm"].max_new_tokens if isinstance(measures["harm"], Probe) else 64
        return {**dict.fromkeys(measures), SUCCESS: Probe(task, max_new_tokens=length)}

    def has_run(self, stage: Stage, store: Store) -> bool:
        """Whether the store holds a stage, be it of an audit that was cut short within it."""
        return {spec.name for spec in self.attacks(stage)} <= {*store.studies()}

    def has_failed(self, store: Store) -> bool:
        """Whether the model has failed in the stages that are run, for sure: then no more of them are needed."""
        evidence = self._evidence(store, ())
        return resists(evidence, evidence.subject) == "fails"

    def evidence(self, store: Store, searches: Sequence[Searched] = ()) -> Evidence:
        """What the store holds of this audit's studies, and what came of its `searches`.

        Raises `CasehardenError` if nothing was measured of the model or the baseline, or if stages were not run of
        which a model that has not failed is in need.
        """
        found = replace(self._evidence(store, self.benign_runs()), searches=tuple(searches))
        if found.skipped and resists(found, found.subject) != "fails":
            raise CasehardenError(
                f"the stages {', '.join(found.skipped)} have not run, and the model has not failed in the others. "
                "Run the audit again."
            )
        return found

    def _evidence(self, store: Store, taught: Sequence[StudySpec]) -> Evidence:
        skipped = tuple(stage.name for stage in self.stages if not self.has_run(stage, store))
        specs = [spec for stage in self.stages if stage.name not in skipped for spec in self.attacks(stage)]
        released = results(store, self.released().name, whole=True)
        attacks = [results(store, spec.name, whole=True) for spec in specs]
        benign_runs = [results(store, spec.name, whole=True) for spec in taught]
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
            provenance=attacks[0].provenance,
            studies=(released, *attacks, *benign_runs),
            ensemble=self.suite.ensemble,
            skipped=skipped,
            left_out=self.left_out,
            base_public=self.base_public,
        )

    def _measured(
        self,
        model: str,
        defense: int,
        released: Results,
        attacks: Sequence[Results],
        benign_runs: Sequence[Results],
    ) -> Measured | None:
        """What was measured of one model; None if nothing was, or none of the attacks on one that is attacked."""
        name = (UNDEFENDED, name_of(self.suite.known_broken, Tuner), name_of(DEAD, Tuner))[defense]

        def mine(studies: Sequence[Results], kind: str) -> Iterator[Any]:
            things = (thing for study in studies for thing in getattr(study, kind))
            return (thing for thing in things if (thing.model, thing.defense) == (model, name))

        before: list[Curve] = list(mine([released], "curves"))
        curves: tuple[Curve, ...] = tuple(mine(attacks, "curves"))
        if not before or not (curves or name == name_of(DEAD, Tuner)):
            return None
        return Measured(
            name=f"{model}, {before[0].defense_name}" if defense else model,
            released=before[0].points[0],
            curves=curves,
            benign_runs=tuple(mine(benign_runs, "curves")),
            failures=tuple(mine([released, *attacks], "failures")),
            benign_failures=tuple(mine(benign_runs, "failures")),
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
