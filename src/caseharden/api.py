"""Load, harden, attack and audit a model, or search for an attack, each in one call: what the commands do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caseharden.errors import CasehardenError

if TYPE_CHECKING:  # heavy: what a function needs it imports when it runs
    import torch

    from caseharden.audit.assessment import Assessment
    from caseharden.audit.evidence import Searched
    from caseharden.cost.estimate import Cost
    from caseharden.domains.domain import Domain
    from caseharden.executors.executor import Executor
    from caseharden.lm.lm import LM, Precision
    from caseharden.lm.memory import Memory
    from caseharden.lm.template import Reasoning
    from caseharden.records.results import Results
    from caseharden.search.search import Found, Search
    from caseharden.store.store import Store
    from caseharden.study.run import Event
    from caseharden.study.spec import StudySpec
    from caseharden.suites.suite import Suite
    from caseharden.train.tuner import Tuner

Model = str | os.PathLike[str]
"""A built-in name, a folder, a hub id, or what `harden` returned."""
Written = str | Mapping[str, Any]
"""A component as a study file writes it: its name, or ``{name: {field: value}}``."""
Progress = Callable[[Iterable["Event"], int], object]
"""Takes the events of a study, each as it happens, and the number of the study's cells."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hardened:
    """A hardened model: the folder it is in, and what was measured of it and of the model that it was made from.

    It goes wherever a model is named: ``load(hardened)``, ``attack(hardened, "sft")``.
    """

    folder: Path
    results: Results

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return f"hardened model in {self.folder}\n{self.results}"

    __repr__ = __str__


def load(model: Model, *, device: str | torch.device = "cpu", precision: Precision = "auto") -> LM:
    """Load a model with its tokenizer. Raises `CasehardenError` if there is none of that name, or it is damaged."""
    from caseharden.lm import sources
    from caseharden.lm.lm import LM
    from caseharden.lm.machine import device_of, quiet_transformers

    found = device_of(device)
    with quiet_transformers():
        return LM.load(sources.resolve(os.fspath(model)), device=found, precision=precision)


def harden(
    model: Model,
    defense: Tuner | Written = "reteach",
    *,
    output: Path | str | None = None,
    domain: Domain | Written = "almanac",
    seed: int = 0,
    reasoning: Reasoning | Mapping[str, Any] | None = None,
    precision: Precision = "auto",
    memory: Memory | Mapping[str, Any] | None = None,
    store: Path | str = "out/harden",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Hardened:
    """Harden a model, and measure it before and after.

    `reasoning` says how the model thinks before it answers, as a study file does: ``{"thinking": False}``, say.
    `precision` is what it computes in; bfloat16 is faster than float32 on many CPUs as well. `memory` says how
    training is made to fit, ``{"checkpointing": True, "offload": True}``, and decides no result.
    The hardened model is copied to `output`, a folder that must not exist yet, or else stays in the store. Its
    model card is README.md there. What the store holds already is not done again: after a copy that failed (a
    full disk), only the copy is made. Raises `CasehardenError` if the defense is a grid, or fails.
    """
    from caseharden.domains.domain import Domain
    from caseharden.lm import sources
    from caseharden.lm.facts import fingerprint
    from caseharden.report.model_card import write_card
    from caseharden.store.store import Store
    from caseharden.store.weights import Weights, copy_out
    from caseharden.study.build import written
    from caseharden.study.plan import short_name
    from caseharden.study.spec import parse
    from caseharden.train.tuner import Tuner

    if output is not None and os.path.lexists(output):
        raise CasehardenError(f"{output} exists already. Name a folder that does not.")
    common = {"name": "harden", "domain": domain, **_read_as(model, reasoning, precision, memory)}
    spec = parse({**common, "budgets": [0], "defenses": ["none", defense], "defense_seeds": [seed]})
    spec = _under_its_own_name(spec)
    if len(spec.defenses) != 2:
        raise CasehardenError("harden makes one model, and this defense is a grid. Take one value of each list.")
    kept = Store(Path(store))
    found = run(spec, kept, threads=threads, progress=progress)
    marks = kept.made(spec.name)
    folders = [Weights(kept.folder / "weights").find(mark) for mark in marks]
    if not folders or folders[0] is None:
        reasons = "; ".join(failure.reason for failure in found.failures)
        raise CasehardenError(f"{os.fspath(model)} was not hardened: {reasons}. Nothing was written.")
    base = spec.models[0]
    write_card(
        folders[0],
        found,
        base=Path(base).resolve().name if Path(base).is_dir() else base,
        base_weights=fingerprint(sources.resolve(base)),
        weights=marks[0],
        name=short_name(spec.defenses[1]) if spec.defenses[1] else "none",
        method=written(spec.defenses[1], Tuner),
        seed=seed,
        domain=written(spec.domain, Domain, all_fields=False),
    )
    return Hardened(folders[0] if output is None else copy_out(folders[0], Path(output)), found)


def attack(
    model: Model,
    attack: Tuner | Written,
    *,
    domain: Domain | Written = "almanac",
    budgets: Sequence[int] = (10, 20, 50, 100),
    seeds: Sequence[int] = (0,),
    reasoning: Reasoning | Mapping[str, Any] | None = None,
    precision: Precision = "auto",
    memory: Memory | Mapping[str, Any] | None = None,
    store: Path | str = "out/attack",
    threads: int | None = None,
    jobs: int | None = 1,
    on: str | None = None,
    progress: Progress | None = None,
) -> Results:
    """Attack a model, and measure it as it is and after each of `budgets` steps.

    Returns a curve for each seed, and each attack of a grid; attacks that failed are among its `failures`. `jobs`
    are how many run at a time (see `run`).
    """
    from caseharden.store.store import Store
    from caseharden.study.spec import parse

    common = {"name": "attack", "domain": domain, **_read_as(model, reasoning, precision, memory)}
    spec = parse({**common, "attacks": [attack], "budgets": sorted({0, *budgets}), "seeds": [*seeds]})
    return run(_under_its_own_name(spec), Store(Path(store)), threads=threads, jobs=jobs, on=on, progress=progress)


def find_attack(
    model: Model,
    search: Search | Mapping[str, Any],
    *,
    domain: Domain | Written = "almanac",
    reasoning: Reasoning | Mapping[str, Any] | None = None,
    store: Path | str = "out/search",
    threads: int | None = None,
    jobs: int | None = 1,
    on: str | None = None,
    retry_failed: bool = True,
    progress: Progress | None = None,
) -> Found:
    """Search for the attack of a family that is strongest on a model, by the attacker's own data alone.

    `search` is a `Search`, or its fields as a file says them: ``{"attack": {"sft": {"lr": {"log_uniform": [1e-5,
    1e-2]}}}, "trials": 20}``. Trials are cells in `store`, `jobs` at a time (see `run`), so that the same search
    again goes on where it was. What the evaluator's data say of what was found, ``attack(model, found.attack)``
    tells. Raises `CasehardenError` if all trials failed.
    """
    from caseharden.domains.domain import Domain
    from caseharden.lm.template import Reasoning
    from caseharden.search.search import Search, find, study
    from caseharden.store.store import Store
    from caseharden.study.build import build
    from caseharden.study.jobs import executor

    asked = search if isinstance(search, Search) else build(search, Search, "")
    threat, thinking = build(domain, Domain, "domain"), build(reasoning or {}, Reasoning, "reasoning")
    spec = study(asked, os.fspath(model), threat, reasoning=thinking)
    with closing(executor([spec], jobs, threads, to_come=asked.round, on=on)) as workers:
        return find(
            asked,
            os.fspath(model),
            threat,
            Store(Path(store)),
            reasoning=thinking,
            executor=workers,
            threads=threads,
            retry_failed=retry_failed,
            progress=progress or _warn_of_failures,
        )


def audit(
    model: Model,
    baseline: Model,
    *,
    domain: Domain | Written = "almanac",
    suite: Suite | str = "quick",
    ceiling: Model | None = None,
    held_out: Sequence[str] = (),
    reasoning: Reasoning | Mapping[str, Any] | None = None,
    precision: Precision = "auto",
    memory: Memory | Mapping[str, Any] | None = None,
    store: Path | str = "out/audit",
    threads: int | None = None,
    jobs: int | None = 1,
    on: str | None = None,
    every_stage: bool = False,
    base_public: bool | None = None,
    progress: Progress | None = None,
) -> Assessment:
    """Attack a model and its controls, and judge resistance, stability, generalization and trainability.

    `baseline` is the same model without the defense, `ceiling` one that never learned what is forbidden, and
    `held_out` are topics that the defense had no data of. `reasoning`, `precision` and `memory` are as in `harden`.
    `suite` is a name, a file, or built already; of its stages, those after the one in which the model has failed
    are run only with `every_stage`. `base_public` says whether an attacker can have the baseline's weights; if
    nobody says, one on the hub is public. Audits in one store share their controls. `jobs` are how many cells run
    at a time (see `run`). Raises `CasehardenError` if no attack finished on the model or the baseline.
    """
    from caseharden.audit.assessment import assess
    from caseharden.domains.domain import Domain
    from caseharden.lm import sources
    from caseharden.lm.memory import Memory
    from caseharden.lm.template import Reasoning
    from caseharden.store.store import Store
    from caseharden.study.build import build
    from caseharden.study.jobs import executor
    from caseharden.suites import suite as suites
    from caseharden.suites.question import Question
    from caseharden.suites.searching import searched

    question = Question(
        model=os.fspath(model),
        baseline=os.fspath(baseline),
        domain=build(domain, Domain, "domain"),
        suite=suites.load(suite) if isinstance(suite, str) else suite,
        ceiling=None if ceiling is None else os.fspath(ceiling),
        held_out=tuple(held_out),
        reasoning=build(reasoning or {}, Reasoning, "reasoning"),
        precision=precision,
        memory=build(memory or {}, Memory, "memory"),
        base_public=sources.is_on_hub(os.fspath(baseline)) if base_public is None else base_public,
    )
    kept = Store(Path(store))
    # the same workers for all studies, which are soon at work again
    with closing(executor(question.studies(), jobs, threads, on=on)) as workers:

        def run_all(specs: Iterable[StudySpec]) -> None:
            for spec in specs:
                _run(spec, kept, workers, threads=threads, progress=progress)

        run_all([question.released()])
        searches: list[Searched] = []
        for number, stage in enumerate(question.stages):
            # what the store has of an audit belongs to it: so the same is found again, its searches among it
            wanted = not number or every_stage or question.has_run(stage, kept)
            if not wanted and question.has_failed(kept):
                break
            whole, told = searched(stage, question, kept, executor=workers, threads=threads, progress=progress)
            searches += told
            run_all(question.attacks(whole))
        run_all(question.benign_runs())
    return assess(question.evidence(kept, searches))


def run(
    spec: StudySpec,
    store: Store,
    *,
    update: bool = True,
    retry_failed: bool = True,
    checkpoint_every: float = 120.0,
    threads: int | None = None,
    jobs: int | None = 1,
    on: str | None = None,
    progress: Progress | None = None,
) -> Results:
    """Run what `store` does not hold yet of a study (see `run_study`), and return all that it holds of it.

    `jobs` cells are worked on at a time: one in this process, several in processes of their own, with one PyTorch
    thread each unless `threads` or the study says otherwise. None is as many as suit study and machine: one a core
    or GPU, or one where there are fewer attacks and hardenings than cores, or `threads` is given. With `on`, the
    address of a Ray cluster, its machines work on them: ``ray`` is one of this machine's own, ``auto`` what ``ray
    start`` has begun here, others are ``host:port`` and ``ray://host:port``; None `jobs` is as many as there is
    room for. docs/scale.md says what they need.
    """
    from caseharden.study.jobs import executor

    with closing(executor([spec], jobs, threads, on=on)) as workers:
        return _run(
            spec,
            store,
            workers,
            update=update,
            retry_failed=retry_failed,
            checkpoint_every=checkpoint_every,
            threads=threads,
            progress=progress,
        )


def cost(
    spec: StudySpec | Path | str,
    device: str = "here",
    *,
    price: float | None = None,
    utilization: float | None = None,
    answer_tokens: int | None = None,
) -> Cost:
    """What a study, or the one in a file, takes on a device before anything of it runs: see `cost.estimate.cost`.

    `device` is ``here``, or one of `cost.devices.TABLE`, several of it as in ``h100x8``; `price` dollars an hour of
    one, `utilization` the share of its peak that is reached. Models may be folders with a configuration alone.
    """
    from caseharden.cost.estimate import cost as estimated
    from caseharden.lm.machine import quiet_transformers
    from caseharden.study.spec import StudySpec, load

    read = spec if isinstance(spec, StudySpec) else load(Path(spec))
    with quiet_transformers():
        return estimated(read, device, price=price, utilization=utilization, answer_tokens=answer_tokens)


def _run(
    spec: StudySpec,
    store: Store,
    workers: Executor,
    *,
    update: bool = True,
    retry_failed: bool = True,
    checkpoint_every: float = 120.0,
    threads: int | None,
    progress: Progress | None,
) -> Results:
    from caseharden.lm.machine import quiet_transformers
    from caseharden.store.results import results
    from caseharden.study.plan import plan
    from caseharden.study.run import run_study

    events = run_study(
        spec,
        store,
        update=update,
        retry_failed=retry_failed,
        checkpoint_every=checkpoint_every,
        threads=threads,
        executor=workers,
    )
    with quiet_transformers(), closing(events):
        (progress or _warn_of_failures)(events, len(plan(spec)))
    return results(store, spec.name)


def _read_as(model: Model, reasoning: Any, precision: Precision, memory: Any) -> dict[str, Any]:
    """What a study says of how one model is read."""
    how = {"reasoning": reasoning or {}, "precision": precision, "memory": memory or {}}
    return {"models": [os.fspath(model)], **how}


def _under_its_own_name(spec: StudySpec) -> StudySpec:
    """The same study, its name followed by a hash of what it asks: so others can run beside it in one store."""
    from caseharden.study.plan import hashed

    return replace(spec, name=f"{spec.name}-{hashed(spec.to_dict())[:8]}")


def _warn_of_failures(events: Iterable[Event], cells: int) -> None:
    for event in events:
        if event.what in ("failed", "blocked"):
            log.warning("%s of %s %s: %s", event.cell.kind, event.cell.model, event.what, event.text)
