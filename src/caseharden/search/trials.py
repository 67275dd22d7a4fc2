"""Trials: attacks of a search, each a cell like any other, kept in the store and done once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from caseharden.errors import CasehardenError
from caseharden.executors.executor import Executor
from caseharden.lm import sources as models
from caseharden.lm.facts import fingerprint
from caseharden.lm.machine import device_of, quiet_transformers
from caseharden.records.asking import worst_asked
from caseharden.records.results import Point
from caseharden.search.objective import unscored
from caseharden.store.log import StepLog
from caseharden.store.store import Store
from caseharden.study.build import as_json, written
from caseharden.study.plan import Environment, hashed, plan
from caseharden.study.run import Event, run_study
from caseharden.study.spec import StudySpec
from caseharden.train.tuner import Tuner, end_of

Progress = Callable[[Iterable[Event], int], object]
"""Takes the events of some cells, each as it happens, and how many cells these are."""


@dataclass(frozen=True)
class Spent:
    """What attacks cost: optimizer steps, examples trained on or tried, tokens read with gradient and without.

    Of N parameters that is about (6·`trained` + 2·`read`)·N FLOPs. NaN where an attack does not say.
    """

    steps: int = 0
    examples: float = 0.0
    trained: float = 0.0
    read: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    @classmethod
    def of(cls, log: Sequence[Mapping[str, float]]) -> Spent:
        """What the steps of a log cost."""
        sums = (
            math.fsum(step.get(name, math.nan) for step in log) for name in ("examples", "tokens", "tokens_read")
        )
        return cls(len(log), *sums)


@dataclass(frozen=True)
class Outcome:
    """What came of an attack: the points, as released first, and what its steps cost; or why it failed."""

    points: tuple[Point, ...]
    spent: Spent
    failure: str = ""


class Trials:
    """Attacks of one search on one model: for each rung and seed a study in the store, to which rounds add."""

    def __init__(
        self,
        base: StudySpec,
        store: Store,
        *,
        executor: Executor | None,
        threads: int | None,
        retry_failed: bool,
        progress: Progress | None,
    ) -> None:
        self.base = base
        self.store = store
        self.executor = executor
        self.threads = threads
        self.retry_failed = retry_failed
        self.progress: Progress = progress or _to_the_end
        self.done: dict[str, dict[str, Tuner]] = {}
        self.charged: set[tuple[str, str]] = set()
        self.spent = Spent()

    def run(self, attacks: Sequence[Tuner], last: int, seed: int) -> list[Outcome]:
        """What comes of each attack up to the budget `last`. What is stored already is not done again.

        The same attack twice is run once; `spent` is what all have cost, each once. Raises `CasehardenError` if
        the model cannot be measured as released, against which all is compared.
        """
        name, budgets = f"{self.base.name}-{last}-seed{seed}", _up_to(self.base.budgets, last)
        spec = replace(self.base, name=name, budgets=budgets, seeds=(seed,))
        refused: dict[str, str] = {}
        known = self.done.setdefault(name, {})
        before = len(known)
        for attack in attacks:
            if (text := _text(attack)) not in known:
                try:
                    replace(spec, attacks=(attack,))
                except CasehardenError as error:
                    refused[text] = str(error)
                else:
                    known[text] = attack
        if len(refused) == len({*map(_text, attacks)}):
            return [Outcome((), Spent(), refused[_text(attack)]) for attack in attacks]
        self._execute(replace(spec, attacks=tuple(known.values())), before)
        asked = {text: known[text] for text in map(_text, attacks) if text in known}
        found = dict(zip(asked, self._outcomes(replace(spec, attacks=tuple(asked.values()))), strict=True))
        return [
            Outcome((), Spent(), refused[text]) if text in refused else self._charged(found[text], name, text)
            for text in map(_text, attacks)
        ]

    def _execute(self, spec: StudySpec, before: int) -> None:
        """Run the study, and tell of what is new in it."""
        first = before + 1 if before else 0  # at 0 stands the model as released
        how = {"update": True, "retry_failed": self.retry_failed, "threads": self.threads}
        events = run_study(spec, self.store, executor=self.executor, **how)  # type: ignore[arg-type]
        with quiet_transformers(), closing(events):
            self.progress((event for event in events if event.position >= first), len(spec.attacks) + 1 - first)
            for _ in events:  # whoever shows progress may stop looking
                pass

    def _outcomes(self, spec: StudySpec) -> Iterator[Outcome]:
        environment = Environment.of(spec, device_of(spec.device).type)
        mark = fingerprint(models.resolve(spec.models[0]))
        release, *cells = plan(spec)
        key = hashed(environment.inputs(release, mark))
        released = self.store.points(key)
        if 0 not in released or {*environment.measures} - released[0].readings.keys():
            row = self.store.cell(key)
            raise CasehardenError(f"{release.model} was not measured as released: {row.reason if row else ''}")
        if why := unscored([released[0]]):
            raise CasehardenError(f"{release.model} as released: {why}, so there is nothing to compare with.")
        for cell in cells:
            key = hashed(environment.inputs(cell, mark))
            assert cell.attack is not None
            wanted = [b for b in spec.budgets if 0 < b <= (end_of(cell.attack) or b)]
            measured = self.store.points(key)
            here = [measured[b] for b in wanted if b in measured]
            spent = Spent.of(StepLog.of(self.store.folder, key).steps()[: max(wanted)])
            if len(here) < len(wanted) or any({*environment.measures} - p.readings.keys() for p in here):
                row = self.store.cell(key)
                yield Outcome((), spent, (row.reason if row else "") or "it did not come to its end")
                continue
            points = worst_asked([released[0], *here], "harm", spec.phi)
            yield Outcome(points, spent, unscored(points))

    def _charged(self, outcome: Outcome, name: str, text: str) -> Outcome:
        """The outcome, its cost added to what is spent unless it was before."""
        if (name, text) not in self.charged:
            self.charged.add((name, text))
            self.spent += outcome.spent
        return outcome


def _up_to(budgets: Sequence[int], last: int) -> tuple[int, ...]:
    return tuple(budget for budget in budgets if budget <= last)


def _text(attack: Tuner) -> str:
    return as_json(written(attack, Tuner, without=("knobs",)))


def _to_the_end(events: Iterable[Event], cells: int) -> None:
    for _ in events:
        pass
