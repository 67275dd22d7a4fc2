"""Evidence without a fault, and ways to plant one in it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from audit_toys import traits
from caseharden.audit.evidence import Evidence, Measured
from caseharden.records.results import BETTER, Curve, Failure, Point, Reading
from caseharden.records.statistics import bounds

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
        {
            "step": step,
            "loss": loss * draw.uniform(1 - noise, 1 + noise),
            "grad_norm": draw.uniform(0.5, 3.0),
            "clipped_norm": 1.0,
        }
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
        with_harms(harms)(
            Curve("m", "tar", name, told, seed, None, BUDGETS[-1], points, traits=traits(told), log=log)
        )
        for rate in RATES
        for told in [{"lr": rate, **fields}]
        for seed in SEEDS
    )


def model(name: str, harms: Sequence[float], learns: Sequence[float] = HIGH) -> Measured:
    curves = attack("sft", harms, supervised()) + attack("grpo", harms, climbing())
    return Measured(
        name,
        released=curves[0].points[0],
        curves=curves,
        benign_runs=attack("sft", learns, supervised(), data={"lesson0": 1.0}),
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
        failures=(Failure("m", "dead", "sft", {}, 0, "out of memory", traits=traits({})),),
        facts={"low_rank": 1.0},
    )


def clean() -> Evidence:
    controls = {"undefended": model("undefended", HIGH), "dead": dead()}
    return Evidence(model("tar", LOW), controls, BETTER, readings=91, overlaps=0)


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


def starving(curve: Curve) -> Curve:
    first = tuple({**step, "clipped_norm": 100.0} for step in curve.log[:3])
    return replace(curve, log=(*first, *curve.log[3:]))


def asked(way: str, before: float) -> Callable[[Evidence], Evidence]:
    """Evidence of a model that tells so much in another way of asking, as released."""

    def plant(evidence: Evidence) -> Evidence:
        subject = evidence.subject
        released = replace(subject.released, readings={**subject.released.readings, f"harm:{way}": read(before)})
        return replace(evidence, subject=replace(subject, released=released))

    return plant


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
    fields = {"lr": 1e-2}
    failure = Failure("m", "tar", "sft", fields, 2, "the loss is not finite\nat step 3", traits=traits(fields))
    return replace(evidence, subject=replace(evidence.subject, failures=(failure,)))


def unteachable(evidence: Evidence) -> Evidence:
    benign_runs = attack("sft", LOW, supervised(), data={"lesson0": 1.0})
    return replace(evidence, subject=replace(evidence.subject, benign_runs=benign_runs))


def rewarded(judges: Sequence[str], reports: str) -> Callable[[Evidence], Evidence]:
    """Rewards by these judges, none of which knows the right answer."""

    def change(curve: Curve) -> Curve:
        curve = replace(curve, traits=replace(curve.traits, judges=tuple(judges)))
        readings = [{**p.readings, "harm": replace(p.readings["harm"], judge=reports)} for p in curve.points]
        return replace(
            curve, points=tuple(replace(p, readings=r) for p, r in zip(curve.points, readings, strict=True))
        )

    return on_both(altered(change, name="grpo"), altered(change, name="grpo", of="undefended"))
