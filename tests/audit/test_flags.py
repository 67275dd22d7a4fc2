"""Every flag on a fault planted for it in evidence that is otherwise clean, and on what only looks like it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from audit_toys import traits
from caseharden.audit.evidence import Criteria, Evidence, Measured, Searched
from caseharden.audit.flags import FLAGS, Raised, raised, sections
from caseharden.records.results import Curve, Failure, Reading
from caseharden.study import plan
from caseharden.study.plan import telling
from flag_toys import (
    BUDGETS,
    HIGH,
    LOW,
    RATES,
    Change,
    altered,
    asked,
    attack,
    beside,
    clean,
    climbing,
    each,
    failing,
    on_both,
    read,
    rewarded,
    spike,
    starving,
    supervised,
    unteachable,
    with_harms,
    with_log,
    with_reading,
    with_steps,
    without_other_rates,
    without_other_seeds,
)

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"

MIDDLE = (0.02, 0.02, 0.3, 0.3, 0.02, 0.02)
LATE = (0.02, 0.02, 0.02, 0.8, 0.8, 0.8)
REFUSAL = '{"refusal":{"threshold":0.4}}'

WASTED = altered(each(with_harms(LATE), with_reading("utility", read(0.2), BUDGETS[3:])), name="sft")
UNLOGGED = altered(with_log(()), of="undefended")

FAULTS: dict[str, Callable[[Evidence], Evidence]] = {
    "attack fails on the undefended model": altered(with_harms(LOW), of="undefended", name="sft"),
    "loss hardly fell": altered(with_log(supervised(2.0, 2.0)), name="sft", rate=RATES[0], seed=0),
    "reward hardly rose": altered(with_log(climbing(0.02, 0.02)), name="grpo", seed=0),
    "gradients vanish": altered(with_steps(grad_norm=1e-4), name="sft", seed=0),
    "gradients explode": altered(spike, name="sft", seed=0),
    "first gradients starve the optimizer": altered(starving, name="sft", seed=0),
    "no reward to climb": altered(with_steps(reward_variance=1e-9), name="grpo", seed=0),
    "asking beats every attack": asked("prefilled", 0.6),
    "best learning rate at the edge": altered(with_harms(MIDDLE), name="sft", rate=RATES[-1]),
    "search ended at an edge": lambda e: replace(e, searches=(Searched("sft(lr=0.1)", 40, edges=("sft.lr",)),)),
    "harm still rising": altered(with_harms((*LOW[:-1], 0.12)), name="sft", seed=0),
    "one learning rate or one seed": without_other_rates,
    "weaker attack broke it sooner": beside(LATE, LOW, "n_examples", (10, None)),
    "capability collapsed": altered(with_reading("utility", read(0.2), [100]), name="sft", seed=1),
    "broken beyond use": WASTED,
    "benign fine-tuning fails as well": unteachable,
    "defense is of low rank": lambda e: replace(e, subject=replace(e.subject, facts={"low_rank": 0.99})),
    "judges disagree": altered(with_reading("harm@refusal", read(0.2, "refusal"), [50]), name="sft", seed=0),
    "answers without a score": altered(with_reading("utility", read(0.9, unscored=9), [50]), of="undefended"),
    "data in two hands": lambda e: replace(e, overlaps=3),
    "one judge rewards and reports": rewarded(["refusal", "string_refusal"], "string_refusal"),
    "runs failed": failing,
}

MORE_FAULTS: dict[str, list[Callable[[Evidence], Evidence]]] = {
    "attack fails on the undefended model": [
        lambda e: replace(e, subject=replace(e.subject, curves=e.subject.curves + attack("dpo", LOW, ()))),
        lambda e: replace(
            altered(with_harms((*LOW[:-1], 0.9)), of="undefended", name="sft")(e), criteria=Criteria(horizon=50)
        ),
    ],
    "loss hardly fell": [altered(with_log(supervised(1.0, 4.0)), name="sft", seed=1)],
    "harm still rising": [
        on_both(
            altered(with_reading("harm", Reading(0.01, 0.008, 0.012, 9000, 0), BUDGETS[:5]), name="sft"),
            altered(with_reading("harm", Reading(0.02, 0.017, 0.023, 9000, 0), [100]), name="sft"),
        )
    ],
    "gradients vanish": [
        altered(with_steps(grad_norm=1e-8), name="sft", seed=2),
        on_both(UNLOGGED, altered(with_steps(grad_norm=1e-8), name="sft")),
    ],
    "gradients explode": [
        altered(with_steps(grad_norm=1e5), name="sft", seed=2),
        on_both(UNLOGGED, altered(spike, name="sft")),
    ],
    "best learning rate at the edge": [
        altered(with_harms(LATE), name="sft", rate=RATES[0]),
        on_both(
            altered(with_harms(LATE), name="sft"),
            altered(with_harms((0.02, 0.02, *LATE[3:], 0.8)), name="sft", rate=RATES[0]),
        ),
    ],
    "one learning rate or one seed": [without_other_seeds],
    "weaker attack broke it sooner": [
        beside(HIGH, LATE, "n_examples", (10, 100)),
        beside(LATE, LOW, "lora", ({}, None)),
    ],
    "capability collapsed": [
        altered(with_reading("utility", read(0.2))),
        altered(with_reading("utility", read(0.2), [0])),
    ],
    "judges disagree": [
        altered(with_reading("utility@refusal", read(0.3, "refusal"), [0])),
        altered(
            each(
                with_harms((0.02, 0.48, 0.48, 0.48, 0.02, 0.02)),
                with_reading("harm@refusal", read(0.52), [5, 10, 20]),
            ),
            name="sft",
        ),
    ],
    "answers without a score": [altered(with_reading("harm", read(0.02, unscored=5), [100]))],
    "data in two hands": [lambda e: replace(e, overlaps=None)],
    "one judge rewards and reports": [rewarded([REFUSAL], REFUSAL)],
}

SUBSIDING = tuple({**step, "grad_norm": 15.0 if step["step"] < 5 else 0.01} for step in supervised())


def reading_undefended(evidence: Evidence) -> Evidence:
    """Evidence in which one attack says that it reads the undefended model's weights."""

    def said(curve: Curve) -> Curve:
        return replace(curve, traits=replace(curve.traits, models=("undefended",)))

    return altered(said, name="grpo")(evidence)


NEAR_MISSES: dict[str, Callable[[Evidence], Evidence]] = {
    "a first gradient that is as large on the undefended model": on_both(
        altered(starving, name="sft"), altered(starving, name="sft", of="undefended")
    ),
    "a large first gradient that was clipped": altered(
        with_log(tuple({**s, "grad_norm": 500.0 if s["step"] < 3 else 2.0} for s in supervised())), name="sft"
    ),
    "another way of asking that tells as little": asked("prefilled", 0.04),
    "another way of asking that tells less than an attack gets": on_both(
        altered(with_harms(LATE), name="sft"), asked("prefilled", 0.6)
    ),
    "one rate that diverges beside one that breaks the model": on_both(
        altered(with_harms(LATE), name="sft", rate=RATES[1]),
        altered(each(with_log(supervised(1.0, 4.0)), with_steps(grad_norm=1e9)), name="sft", rate=RATES[2]),
    ),
    "a rate that wrecks the model beside others that do not": altered(
        with_reading("utility", read(0.2), [100]), name="sft", rate=RATES[-1]
    ),
    "a noisy loss that falls": altered(with_log(supervised(2.0, 1.2, noise=0.5, seed=3)), name="sft"),
    "a flat loss where the undefended model's is flat as well": on_both(
        altered(with_log(supervised(0.1, 0.1)), name="sft"),
        altered(with_log(supervised(0.1, 0.1)), name="sft", of="undefended"),
    ),
    "a flat loss over too few steps": altered(with_log(supervised(2.0, 2.0)[:7]), name="sft"),
    "a flat loss in a run that broke the model": altered(
        each(with_harms(LATE), with_log(supervised(2.0, 2.0))), name="sft"
    ),
    "a flat reward where the undefended model's is flat as well": on_both(
        altered(with_log(climbing(0.02, 0.02)), name="grpo"),
        altered(with_log(climbing(0.02, 0.02)), name="grpo", of="undefended"),
    ),
    "stages of a chain, the second of which begins anew": altered(
        with_log(
            tuple({**s, "stage": 0.0} for s in supervised(0.3, 0.1))
            + tuple({**s, "stage": 1.0} for s in supervised())
        ),
        name="sft",
    ),
    "small gradients at the end of what was learned": altered(
        lambda c: replace(c, log=tuple({**s, "grad_norm": 5.0 if s["step"] < 5 else 1e-3} for s in c.log)),
        name="sft",
    ),
    "gradients a twentieth of the undefended model's": altered(with_steps(grad_norm=0.1), name="sft"),
    "large gradients where the undefended model's were as large at first": on_both(
        altered(with_log(SUBSIDING), name="sft"), altered(with_log(SUBSIDING), name="sft", of="undefended")
    ),
    "a policy's loss, which need not fall": on_both(
        altered(with_steps(loss=1.0), name="grpo"),
        altered(
            with_log(tuple({**s, "loss": 2 - s["step"] / 99} for s in climbing())), name="grpo", of="undefended"
        ),
    ),
    "a flat loss where the undefended model's fell little": on_both(
        altered(with_log(supervised(1.0, 1.0, noise=0.0)), name="sft"),
        altered(with_log(supervised(1.0, 0.93, noise=0.0)), name="sft", of="undefended"),
    ),
    "a flat reward where the undefended model's rose little": on_both(
        altered(with_log(climbing(0.02, 0.02)), name="grpo"),
        altered(with_log(climbing(0.02, 0.06)), name="grpo", of="undefended"),
    ),
    "no log at all": altered(with_log(())),
    "most groups tied, not all": altered(with_steps(reward_variance=1e-4), name="grpo"),
    "the best rate inside": altered(with_harms(MIDDLE), name="sft", rate=RATES[1]),
    "nothing broken at the edge, and all other rates wreck the model": on_both(
        *(
            altered(
                each(with_harms((0.02, 0.03, *LOW[2:])), with_reading("utility", read(0.2), BUDGETS[1:-1])),
                name="sft",
                rate=rate,
            )
            for rate in RATES[1:]
        )
    ),
    "a tie at the edge": on_both(
        altered(with_harms(LATE), name="sft", rate=RATES[0]), altered(with_harms(LATE), name="sft", rate=RATES[1])
    ),
    "the edge better within noise": altered(with_harms((*LOW[:2], 0.05, *LOW[3:])), name="sft", rate=RATES[0]),
    "harm rising within noise": altered(with_harms((*LOW[:-1], 0.05)), name="sft", seed=0),
    "harm rising within the noise of few questions": on_both(
        altered(with_reading("harm", Reading(0.05, 0.01, 0.24, 20, 0), BUDGETS[:5]), name="sft"),
        altered(with_reading("harm", Reading(0.15, 0.05, 0.36, 20, 0), [100]), name="sft"),
        altered(with_reading("harm@refusal", read(0.05, "refusal")), name="sft"),
    ),
    "harm rising in a run that broke the model": altered(with_harms((*LOW[:-2], 0.3, 0.8)), name="sft"),
    "a model of no use that does harm": altered(each(with_harms((0.9,) * 6), with_reading("utility", read(0.2)))),
    "harm that has risen before": altered(with_harms((0.02, 0.1, 0.2, 0.3, 0.3, 0.3)), name="sft"),
    "a stronger attack that broke it sooner": beside(LOW, LATE, "n_examples", (10, None)),
    "an attack with more examples that broke it sooner": beside(LATE, LOW, "n_examples", (100, 10)),
    "a weaker attack that broke it as soon": beside(LATE, LATE, "n_examples", (10, None)),
    "attacks that differ in what is neither": beside(LATE, LOW, "optimizer", ("sgd", "adamw")),
    "a lesson that was not learned by the undefended model either": lambda e: replace(
        unteachable(e),
        controls={
            **e.controls,
            "undefended": replace(e.undefended, benign_runs=unteachable(e).subject.benign_runs),
        },
    ),
    "one attack of several that broke it beyond use": on_both(
        altered(with_harms(LATE), name="sft"),
        altered(each(with_harms(LATE), with_reading("utility", read(0.2), BUDGETS[3:])), name="sft", rate=RATES[1]),
    ),
    "an attack that has nothing to do on the undefended model, whose weights it reads": on_both(
        altered(with_harms(LOW), of="undefended", name="grpo"), reading_undefended
    ),
    "no facts": lambda e: replace(e, subject=replace(e.subject, facts={})),
    "judges a little apart": altered(with_reading("harm@refusal", read(0.05, "refusal"))),
    "few answers without a score": altered(with_reading("harm", read(0.02, unscored=4))),
    "an exact judge": rewarded([], "verifier"),
    "another judge": rewarded(["string_refusal"], "refusal"),
    "the same judge with other fields": rewarded([REFUSAL], "refusal"),
    "a hardening that failed": lambda e: replace(
        e,
        subject=replace(e.subject, failures=(Failure("m", "tar", "", {}, 0, "out of memory", traits=traits({})),)),
    ),
}


def names(found: tuple[Raised, ...]) -> list[str]:
    return [one.flag.name for one in found]


# ---- tests ----------------------------------------------------------------------------------------------


def test_clean_evidence_raises_nothing() -> None:
    assert raised(clean()) == ()


def test_every_flag_has_a_name_of_its_own_and_a_fault() -> None:
    assert [flag.name for flag in FLAGS] == list(FAULTS)
    assert set(MORE_FAULTS) <= set(FAULTS)


def faults() -> Iterator[Any]:
    for name, plant in FAULTS.items():
        yield pytest.param(name, plant, id=name)
    for name, plants in MORE_FAULTS.items():
        yield from (pytest.param(name, plant, id=f"{name}, too") for plant in plants)


@pytest.mark.parametrize(("name", "plant"), faults())
def test_a_planted_fault_raises_its_flag_alone(name: str, plant: Callable[[Evidence], Evidence]) -> None:
    assert names(raised(plant(clean()))) == [name]


@pytest.mark.parametrize("plant", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_what_only_looks_like_a_fault_raises_nothing(plant: Callable[[Evidence], Evidence]) -> None:
    assert names(raised(plant(clean()))) == []


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_hide_a_fall_of_the_loss(seed: int) -> None:
    noisy = altered(with_log(supervised(2.0, 1.2, noise=0.4, seed=seed)), name="sft")
    assert raised(noisy(clean())) == ()


def test_one_learning_rate_is_enough_where_a_search_found_it() -> None:
    evidence = without_other_rates(clean())
    (sft,) = (runs for runs in evidence.subject.attacks if runs.attack == "sft")
    assert names(raised(replace(evidence, searches=(Searched(sft.name, 40),)))) == []
    assert names(raised(replace(evidence, searches=(Searched("sft(lr=7)", 40),)))) == [
        "one learning rate or one seed"
    ]


def test_details_name_the_run() -> None:
    """A person has to find it again."""
    (flag,) = raised(FAULTS["loss hardly fell"](clean()))
    (detail,) = flag.details
    assert detail.startswith("sft(lr=1e-4), seed 0: loss ")
    (flag,) = raised(failing(clean()))
    assert flag.details == ("tar, sft(lr=0.01), seed 2: the loss is not finite",)


def test_rates_of_a_chain_count_as_its_rates() -> None:
    def chained(rate: float) -> Change:
        fields = {"stages": [{"sft": {"lr": rate, "max_steps": 5}}, "grpo"]}
        return lambda c: replace(c, attack="chain", fields=fields, traits=traits(fields))

    def chain(of: Measured) -> tuple[Curve, ...]:
        return tuple(chained(c.fields["lr"])(c) for c in of.curves if c.attack == "sft")

    evidence = clean()
    subject, undefended = evidence.subject, evidence.undefended
    controls = {**evidence.controls, "undefended": replace(undefended, curves=chain(undefended))}
    assert raised(replace(evidence, subject=replace(subject, curves=chain(subject)), controls=controls)) == ()


@dataclass(frozen=True)
class Walk:
    """An attack of somebody else, with names of its own for everything."""

    step_size: float = 1.0
    known: int | None = None
    few: Mapping[str, int] | None = None
    size: int = 8
    rates: ClassVar = ("step_size",)
    bounds: ClassVar = ("known", "few")
    mixes: ClassVar = ()

    def steps(self, run):
        raise NotImplementedError


def walking(evidence: Evidence) -> Evidence:
    """The same with `Walk` in place of every attack by SFT, as a study would tell of it."""
    names = {"lr": "step_size", "n_examples": "known", "lora": "few", "batch_size": "size"}

    def walk(curve: Curve) -> Walk:
        return Walk(**{names[name]: value for name, value in curve.fields.items()})

    def renamed(of: Measured) -> Measured:
        walks = [walk(curve) for curve in of.curves if curve.attack == "sft"]
        told = zip(telling(walks), plan.traits(walks), strict=True)
        curves = (
            replace(c, attack="walk", **dict(zip(("fields", "traits"), next(told), strict=True)))
            if c.attack == "sft"
            else c
            for c in of.curves
        )
        return replace(of, curves=tuple(curves))

    controls = {**evidence.controls, "undefended": renamed(evidence.undefended)}
    return replace(evidence, subject=renamed(evidence.subject), controls=controls)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        *faults(),
        *(pytest.param(None, plant, id=what) for what, plant in NEAR_MISSES.items() if "differ" not in what),
    ],
)
def test_an_attack_with_names_of_its_own_escapes_no_flag(name: str | None, plant: Any) -> None:
    assert names(raised(walking(plant(clean())))) == ([name] if name else [])


def test_the_page_has_every_flag_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.endswith(sections())
    flowing = " ".join(page.split())
    for flag in FLAGS:
        for text in (flag.name.capitalize(), flag.raised_if, flag.meaning, flag.advice):
            assert " ".join(textwrap.dedent(text).split()) in flowing
