"""Search for the attacks of a stage that are strongest on the model under audit."""

from __future__ import annotations

from dataclasses import replace

from caseharden.audit.evidence import Searched
from caseharden.executors.executor import Executor
from caseharden.search.search import SearchFailed, find
from caseharden.search.trials import Progress
from caseharden.store.store import Store
from caseharden.study.plan import short_name
from caseharden.suites.question import Question
from caseharden.suites.suite import Stage


def searched(
    stage: Stage,
    question: Question,
    store: Store,
    *,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Stage, tuple[Searched, ...]]:
    """The stage with what its searches find among its attacks, and what each search was.

    A search steers clear of the bound on capability, at half the distance from it to no loss: an attack that rides
    it on the attacker's questions is beyond it on the evaluator's. It is computed in the audit's precision.
    """
    attacks, told = {str(attack): attack for attack in stage.attacks}, []
    for search in stage.searches:
        try:
            found = find(
                replace(search, capable=(1 + question.suite.criteria.capable) / 2, precision=question.precision),
                question.model,
                question.domain,
                store,
                phi=question.suite.criteria.phi,
                reasoning=question.reasoning,
                memory=question.memory,
                executor=executor,
                threads=threads or question.suite.threads,
                retry_failed=True,
                progress=progress,
            )
        except SearchFailed as error:
            told.append(Searched("", failure=str(error)))
            continue
        attacks[str(found.attack)] = found.attack
        spent = found.spent
        told.append(
            Searched(
                short_name(found.attack),
                trials=found.trials,
                failed=found.failed,
                pruned=found.pruned,
                edges=found.edges,
                steps=spent.steps,
                examples=spent.examples,
                trained=spent.trained,
                read=spent.read,
            )
        )
    return replace(stage, attacks=tuple(attacks.values()), searches=()), tuple(told)
