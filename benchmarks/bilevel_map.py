"""The map between TAR and Patcher: resistance against hardening's cost, from examples/almanac-map.yaml's report.

    python benchmarks/bilevel_map.py map.json docs/methods/bilevel-map.svg

Resistance is the geometric mean over attacks of the median steps to break over seeds; an attack that never broke
the model counts as far as it was tested. Cost is the sequences that went forward and backward, counted from the
fields; eight of them are one of the adversary's forward-backwards. Prints a Markdown table.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from caseharden.attacks import SFT
from caseharden.defenses import TAR, Patcher
from caseharden.study.build import build, written
from caseharden.train.objectives import Objective
from caseharden.train.tuner import Tuner

UNIT = 8
"""Sequences of one forward-backward."""


@dataclass
class Setting:
    """One defense of the study, and what came of it."""

    tuner: Tuner | None
    label: str
    cost: float
    steps: list[int]
    censored: bool
    utility: float
    bystander: float

    @property
    def resistance(self) -> float:
        return math.exp(sum(map(math.log, (max(1, steps) for steps in self.steps))) / len(self.steps))


def forward_backwards(tuner: Tuner | None) -> float:
    """Of hardening, in units of eight sequences."""
    if isinstance(tuner, Patcher):
        attacked = tuner.max_steps - tuner.defense_steps if tuner.alpha else 0
        attack = sum(map(_batch, tuner.adversaries)) / len(tuner.adversaries) * tuner.attack_steps
        attacks = attacked / tuner.defense_steps
        benign = _batch(tuner.benign) if tuner.benign else 0
        steps = tuner.max_steps * (_batch(tuner.safe) + benign) + attacked * _batch(tuner.safe)
        return (steps + attacks * attack) / UNIT
    if isinstance(tuner, TAR):
        attack = sum(map(_batch, tuner.adversaries)) / len(tuner.adversaries) * tuner.inner_steps
        checkpoints = len(tuner.checkpoint_weights()) * _batch(tuner.tamper)
        return tuner.max_steps * (attack + checkpoints + _batch(tuner.retain)) / UNIT
    return 0.0


def _label(tuner: Tuner) -> str:
    """The method and its fields that are not at their defaults."""
    short = written(tuner, Tuner, all_fields=False)
    name, fields = (short, {}) if isinstance(short, str) else next(iter(short.items()))
    return ", ".join([name, *(f"{k}={v if not isinstance(v, dict) else next(iter(v))}" for k, v in fields.items())])


def _batch(one: Tuner | Objective) -> int:
    """Sequences of a step; DPO's come in pairs."""
    assert isinstance(one, SFT) or hasattr(one, "batch_size")
    return int(one.batch_size) * (2 if hasattr(one, "beta") else 1)


def settings(report: dict[str, Any]) -> list[Setting]:
    """Every defense of the report, the undefended model first."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for curve in report["curves"]:
        groups[json.dumps([curve["defense"], curve["defense_fields"]])].append(curve)
    found = []
    for key, curves in groups.items():
        name, fields = json.loads(key)
        tuner = None if name == "undefended" else build({name: fields}, Tuner, "")
        attacks: dict[str, list[tuple[int, bool]]] = defaultdict(list)
        for curve in curves:
            broken = curve["t_phi"] is not None
            attacks[json.dumps(curve["fields"])].append(
                (curve["t_phi"] if broken else curve["censored_at"], not broken)
            )
        worst = [median_low(sorted(runs)) for runs in attacks.values()]
        found.append(
            Setting(
                tuner,
                name if tuner is None else _label(tuner),
                forward_backwards(tuner),
                [steps for steps, _ in worst],
                any(censored for _, censored in worst),
                curves[0]["points"][0]["utility"]["value"],
                curves[0]["points"][0]["readings"]["bystander"]["value"],
            )
        )
    return found


def front(found: list[Setting], floor: float) -> list[Setting]:
    """Those with utility above `floor` that nothing cheaper beats, by cost."""
    best: list[Setting] = []
    for setting in sorted((s for s in found if s.utility >= floor), key=lambda s: (s.cost, -s.resistance)):
        if not best or setting.resistance > best[-1].resistance:
            best.append(setting)
    return best


def draw(found: list[Setting], floor: float, path: str) -> None:
    """Cost to the right, resistance upwards, colour by method; hollow where utility fell by over two points."""
    matplotlib.rcParams.update(
        {"font.size": 8, "svg.hashsalt": "caseharden", "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, axes = plt.subplots(figsize=(6.2, 4.0))
    colours = {Patcher: "#1f6feb", TAR: "#d9480f"}
    for number, setting in enumerate(found[1:], start=1):
        colour = colours[type(setting.tuner)]
        usable = setting.utility >= floor
        axes.scatter(setting.cost, setting.resistance, s=28, color=colour if usable else "none", edgecolor=colour)
        where = (setting.cost, setting.resistance)
        axes.annotate(str(number), where, (4, 3), textcoords="offset points", fontsize=7)
    best = front(found[1:], floor)
    axes.step([s.cost for s in best], [s.resistance for s in best], where="post", color="#868e96", lw=0.8, ls="--")
    axes.axhline(found[0].resistance, color="#868e96", lw=0.6)
    axes.annotate("undefended", (min(s.cost for s in found[1:]), found[0].resistance), fontsize=6, va="bottom")
    axes.set(xscale="log", yscale="log", xlabel="forward-backwards spent on hardening (8 sequences each)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("attack steps to break, geometric mean over attacks")
    for kind, colour in colours.items():
        axes.scatter([], [], color=colour, label=kind.__name__)
    axes.scatter([], [], color="none", edgecolor="#868e96", label="utility down by more than 2 points")
    axes.legend(frameon=False, fontsize=6, loc="upper left")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        found = settings(json.load(file))
    floor = found[0].utility - 0.02
    on = front(found[1:], floor)
    columns = ["setting", "forward-backwards", "steps to break by attack", "geometric mean", "utility", "bystander"]
    print("| |", " | ".join([*columns, "on the front"]), "|")
    print("|---|---|---|---|---|---|---|---|")
    for number, s in enumerate(found):
        steps = " / ".join(map(str, s.steps))
        mean = f"{'> ' if s.censored else ''}{s.resistance:.1f}"
        last = "yes" if s in on else ""
        useful = f"{s.utility:.3f} | {s.bystander:.3f}"
        print(f"| {number or ''} | {s.label} | {s.cost:,.0f} | {steps} | {mean} | {useful} | {last} |")
    draw(found, floor, sys.argv[2])


if __name__ == "__main__":
    main()
