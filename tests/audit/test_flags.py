"""Every flag on a fault planted for it in evidence that is otherwise clean, and on what only looks like it."""

from __future__ import annotations

import math
import random
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caseharden.audit.evidence import Evidence, Measured, Terms
from caseharden.audit.flags import FLAGS, Raised, raised, sections
from caseharden.audit.results import Curve, Failure, Point, Reading
from caseharden.audit.stats import bounds

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"
BUDGETS = (0, 5, 10, 20, 50, 100)
RATES = (1e-4, 3e-4, 1e-3)
SEEDS = (0, 1, 2)
QUESTIONS = 200
LOW, HIGH = (0.02,) * 6, (0.02, 0.7, 0.9, 0.9, 0.9, 0.9)
"""Harm at each budget of a run that breaks nothing, and of one that breaks the model at 5 steps."""

Change = Callable[[Curve], Curve]
Steps = tuple[Mapping[str, float], ...]


# ---- clean evidence -------------------------------------------------------------------------------------


def read(value: float, judge: str = "verifier", unscored: int = 0) -> Reading:
    return Reading(value, *bounds(value, QUESTIONS, 0.95), QUESTIONS, unscored, judge, "1")


def with_harms(harms: Sequence[float]) -> Change:
    """Those harms as measured, by both judges, with utility as it was."""

    def change(curve: Curve) -> Curve:
        points = tuple(
            replace(point, readings={**point.readings, "harm": read(harm), "harm@refusal": read(harm, "refusal")})
            for point, harm in zip(curve.points, harms, strict=True)
        )
        broken = next((p.budget for p in points if p.readings["harm"].value > 0.5), None)
        return replace(curve, points=points, t_phi=broken, censored_at=None if broken is not None else BUDGETS[-1])

    return change


def supervised(first: float = 2.0, last: float = 0.5, noise: float = 0.2, seed: int = 0) -> Steps:
    """A hundred steps whose loss goes from `first` to `last`, each off by up to the share `noise`."""
    draw = random.Random(seed)
    losses = (first + (last - first) * step / 99 for step in range(100))
    return tuple(
        {"step": step, "loss": loss * draw.uniform(1 - noise, 1 + noise), "grad_norm": draw.uniform(0.5, 3.0)}
        for step, loss in enumerate(losses)
    )


def climbing(first: float = 0.02, last: float = 0.3, variance: float = 0.05) -> Steps:
    """A hundred steps with a rollout at every second; its loss is about 0, as policy gradients' are."""
    draw = random.Random(0)
    return tuple(
        {"step": step, "loss": draw.gauss(0, 0.1), "grad_norm": draw.choice([0.0, 0.0, 2.0])}
        | ({"reward": first + (last - first) * step / 99, "reward_variance": variance} if step % 2 == 0 else {})
        for step in range(100)
    )


def attack(name: str, harms: Sequence[float], log: Steps, **fields: Any) -> tuple[Curve, ...]:
    """An attack at every rate, with every seed."""
    points = tuple(Point(budget, {"utility": read(0.9)}) for budget in BUDGETS)
    return tuple(
        with_harms(harms)(Curve("m", "tar", name, {"lr": rate, **fields}, seed, None, BUDGETS[-1], points, log=log))
        for rate in RATES
        for seed in SEEDS
    )


def model(name: str, harms: Sequence[float], learns: Sequence[float] = HIGH) -> Measured:
    curves = attack("sft", harms, supervised()) + attack("grpo", harms, climbing())
    return Measured(
        name,
        released=curves[0].points[0],
        curves=curves,
        lessons=attack("sft", learns, supervised(), data={"lesson0": 1.0}),
        facts={"low_rank": 0.4},
    )


def dead() -> Measured:
    """A control full of faults, at which no flag looks."""
    faulty = model("dead", LOW, LOW)
    silent = {"utility": read(0.0), "harm": read(0.0), "harm@refusal": read(0.9)}
    return replace(
        faulty,
        curves=tuple(
            replace(c, log=(), seed=0, points=tuple(replace(p, readings=silent) for p in c.points))
            for c in faulty.curves
        ),
        failures=(Failure("m", "dead", "sft", {}, 0, "out of memory"),),
        facts={"low_rank": 1.0},
    )


def clean() -> Evidence:
    controls = {"undefended": model("undefended", HIGH), "dead": dead()}
    return Evidence(model("tar", LOW), controls, overlaps=0)


# ---- planting -------------------------------------------------------------------------------------------


def altered(
    change: Change,
    *,
    of: str = "subject",
    name: str | None = None,
    rate: float | None = None,
    seed: int | None = None,
) -> Callable[[Evidence], Evidence]:
    """Evidence with `change` made to attack runs: of that attack, at that rate, with that seed."""

    def chosen(curve: Curve) -> bool:
        wanted = ((name, curve.attack), (rate, curve.fields["lr"]), (seed, curve.seed))
        return all(want is None or want == got for want, got in wanted)

    def plant(evidence: Evidence) -> Evidence:
        measured = evidence.subject if of == "subject" else evidence.undefended
        curves = tuple(change(c) if chosen(c) else c for c in measured.curves)
        found = replace(measured, released=curves[0].points[0], curves=curves)
        if of == "subject":
            return replace(evidence, subject=found)
        return replace(evidence, controls={**evidence.controls, "undefended": found})

    return plant


def with_log(log: Steps) -> Change:
    return lambda curve: replace(curve, log=log)


def with_steps(**values: float) -> Change:
    """Every step reports these instead, where it reported them at all."""
    return lambda curve: replace(
        curve, log=tuple({name: values.get(name, was) for name, was in step.items()} for step in curve.log)
    )


def with_reading(name: str, reading: Reading, at: Sequence[int] = BUDGETS) -> Change:
    def change(curve: Curve) -> Curve:
        return replace(
            curve,
            points=tuple(
                replace(p, readings={**p.readings, name: reading}) if p.budget in at else p for p in curve.points
            ),
        )

    return change


def each(*changes: Change) -> Change:
    def change(curve: Curve) -> Curve:
        for one in changes:
            curve = one(curve)
        return curve

    return change


def on_both(*plants: Callable[[Evidence], Evidence]) -> Callable[[Evidence], Evidence]:
    def plant(evidence: Evidence) -> Evidence:
        for one in plants:
            evidence = one(evidence)
        return evidence

    return plant


def spike(curve: Curve) -> Curve:
    return replace(curve, log=({**curve.log[0], "grad_norm": math.inf}, *curve.log[1:]))


def without_other_rates(evidence: Evidence) -> Evidence:
    kept = tuple(c for c in evidence.subject.curves if c.attack == "grpo" or c.fields["lr"] == RATES[1])
    return replace(evidence, subject=replace(evidence.subject, curves=kept))


def without_other_seeds(evidence: Evidence) -> Evidence:
    kept = tuple(c for c in evidence.subject.curves if c.attack == "grpo" or c.seed == 1)
    return replace(evidence, subject=replace(evidence.subject, curves=kept))


def beside(weak: Sequence[float], strong: Sequence[float], field: str, values: tuple[Any, Any]) -> Callable:
    """Two more attacks that differ in one field; both break the undefended model."""

    def plant(evidence: Evidence) -> Evidence:
        def more(of: Measured, *harms: Sequence[float]) -> Measured:
            extra = [
                attack("sft", h, supervised(), batch_size=4, **{field: v})
                for h, v in zip(harms, values, strict=True)
            ]
            return replace(of, curves=of.curves + extra[0] + extra[1])

        controls = {**evidence.controls, "undefended": more(evidence.undefended, HIGH, HIGH)}
        return replace(evidence, subject=more(evidence.subject, weak, strong), controls=controls)

    return plant


def failing(evidence: Evidence) -> Evidence:
    failure = Failure("m", "tar", "sft", {"lr": 1e-2}, 2, "the loss is not finite\nat step 3")
    return replace(evidence, subject=replace(evidence.subject, failures=(failure,)))


def unteachable(evidence: Evidence) -> Evidence:
    lessons = attack("sft", LOW, supervised(), data={"lesson0": 1.0})
    return replace(evidence, subject=replace(evidence.subject, lessons=lessons))


def rewarded(judge: Any, reports: str) -> Callable[[Evidence], Evidence]:
    reward = {"sum": {"terms": ["entropy", {"judged": {"judge": judge, "weight": -1.0}}]}}

    def change(curve: Curve) -> Curve:
        curve = replace(curve, fields={**curve.fields, "reward": reward})
        readings = [{**p.readings, "harm": replace(p.readings["harm"], judge=reports)} for p in curve.points]
        return replace(
            curve, points=tuple(replace(p, readings=r) for p, r in zip(curve.points, readings, strict=True))
        )

    return on_both(altered(change, name="grpo"), altered(change, name="grpo", of="undefended"))


MIDDLE = (0.02, 0.02, 0.3, 0.3, 0.02, 0.02)
LATE = (0.02, 0.02, 0.02, 0.8, 0.8, 0.8)
REFUSAL = {"refusal": {"threshold": 0.4}}

WASTED = altered(each(with_harms(LATE), with_reading("utility", read(0.2), BUDGETS[3:])), name="sft")
UNLOGGED = altered(with_log(()), of="undefended")

FAULTS: dict[str, Callable[[Evidence], Evidence]] = {
    "attack fails on the undefended model": altered(with_harms(LOW), of="undefended", name="sft"),
    "loss hardly fell": altered(with_log(supervised(2.0, 2.0)), name="sft", rate=RATES[0], seed=0),
    "reward hardly rose": altered(with_log(climbing(0.02, 0.02)), name="grpo", seed=0),
    "gradients vanish": altered(with_steps(grad_norm=1e-4), name="sft", seed=0),
    "gradients explode": altered(spike, name="sft", seed=0),
    "no reward to climb": altered(with_steps(reward_variance=1e-9), name="grpo", seed=0),
    "best learning rate at the edge": altered(with_harms(MIDDLE), name="sft", rate=RATES[-1]),
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
    "one judge rewards and reports": rewarded("string_refusal", "string_refusal"),
    "runs failed": failing,
}

MORE_FAULTS: dict[str, list[Callable[[Evidence], Evidence]]] = {
    "attack fails on the undefended model": [
        lambda e: replace(e, subject=replace(e.subject, curves=e.subject.curves + attack("dpo", LOW, ()))),
        lambda e: replace(
            altered(with_harms((*LOW[:-1], 0.9)), of="undefended", name="sft")(e), terms=Terms(horizon=50)
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
    "one judge rewards and reports": [rewarded(REFUSAL, '{"refusal":{"threshold":0.4}}')],
}

SUBSIDING = tuple({**step, "grad_norm": 15.0 if step["step"] < 5 else 0.01} for step in supervised())

NEAR_MISSES: dict[str, Callable[[Evidence], Evidence]] = {
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
        controls={**e.controls, "undefended": replace(e.undefended, lessons=unteachable(e).subject.lessons)},
    ),
    "one attack of several that broke it beyond use": on_both(
        altered(with_harms(LATE), name="sft"),
        altered(each(with_harms(LATE), with_reading("utility", read(0.2), BUDGETS[3:])), name="sft", rate=RATES[1]),
    ),
    "no facts": lambda e: replace(e, subject=replace(e.subject, facts={})),
    "judges a little apart": altered(with_reading("harm@refusal", read(0.05, "refusal"))),
    "few answers without a score": altered(with_reading("harm", read(0.02, unscored=4))),
    "an exact judge": rewarded("verifier", "verifier"),
    "another judge": rewarded("string_refusal", "refusal"),
    "the same judge with other fields": rewarded(REFUSAL, "refusal"),
    "a hardening that failed": lambda e: replace(
        e, subject=replace(e.subject, failures=(Failure("m", "tar", "", {}, 0, "out of memory"),))
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


def test_details_name_the_run() -> None:
    """A person has to find it again."""
    (flag,) = raised(FAULTS["loss hardly fell"](clean()))
    (detail,) = flag.details
    assert detail.startswith("sft lr=0.0001, seed 0: loss ")
    (flag,) = raised(failing(clean()))
    assert flag.details == ("tar, sft lr=0.01, seed 2: the loss is not finite",)


def test_rates_of_a_chain_count_as_its_rates() -> None:
    def chained(rate: float) -> Change:
        return lambda c: replace(
            c, attack="chain", fields={"stages": [{"sft": {"lr": rate, "max_steps": 5}}, "grpo"]}
        )

    def chain(of: Measured) -> tuple[Curve, ...]:
        return tuple(chained(c.fields["lr"])(c) for c in of.curves if c.attack == "sft")

    evidence = clean()
    subject, undefended = evidence.subject, evidence.undefended
    controls = {**evidence.controls, "undefended": replace(undefended, curves=chain(undefended))}
    assert raised(replace(evidence, subject=replace(subject, curves=chain(subject)), controls=controls)) == ()


def test_the_page_has_every_flag_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.endswith(sections())
    flowing = " ".join(page.split())
    for flag in FLAGS:
        for text in (flag.name.capitalize(), flag.raised_if, flag.meaning, flag.advice):
            assert " ".join(textwrap.dedent(text).split()) in flowing
