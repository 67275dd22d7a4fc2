"""Attack runs with what each of their steps reported, beside the undefended model's under the same attack."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from caseharden.audit.evidence import Evidence
from caseharden.audit.resistance import but_rates
from caseharden.records.results import Curve


@dataclass(frozen=True)
class Logged:
    """A run with the undefended model's runs under the same attack; of a chain, the last stage that it reached."""

    curve: Curve
    twins: tuple[Curve, ...]

    @property
    def climbs(self) -> bool:
        """Whether it learns from rewards; then its loss need not fall."""
        return bool(self.series("reward", finite=False))

    def series(self, name: str, *, finite: bool = True) -> list[float]:
        """What each step reported by that name; steps that did not are left out."""
        return self._of(self.curve, name, finite)

    def undefended(self, name: str) -> list[list[float]]:
        """The same of the undefended model's runs that have it twice at least."""
        found = (self._of(twin, name, True) for twin in self.twins)
        return [values for values in found if len(values) > 1]

    @property
    def usual_gradient(self) -> float:
        """The undefended model's mean gradient norm; 0 if it is not known.

        Not the median: where a loss has come to its end, and where groups of answers are tied, most gradients
        are small without anything being wrong.
        """
        norms = [norm for twin in self.twins for norm in self._of(twin, "grad_norm", True)]
        return fmean(norms) if norms else 0.0

    def _of(self, curve: Curve, name: str, finite: bool) -> list[float]:
        stage = self.curve.log[-1].get("stage") if self.curve.log else None
        values = [step[name] for step in curve.log if name in step and step.get("stage") == stage]
        return [value for value in values if math.isfinite(value) or not finite]


def unbroken(evidence: Evidence) -> Iterator[tuple[str, Logged]]:
    """Every run that did not break the model within the horizon, of attacks that do so at no learning rate."""
    broken = {but_rates(runs) for runs in evidence.subject.attacks if evidence.breaks(runs)}
    twins = {runs.key: runs.curves for runs in evidence.undefended.attacks}
    for runs in evidence.subject.attacks:
        if but_rates(runs) in broken:
            continue
        for curve in runs.curves:
            if broke(curve) > evidence.criteria.horizon:
                yield f"{runs.name}, seed {curve.seed}", Logged(curve, twins.get(runs.key, ()))


def quarters(series: Iterable[Sequence[float]]) -> tuple[float, float]:
    """Means of the first and of the last quarter of steps, over several runs."""
    parts = [(values[:n], values[-n:]) for values in series for n in [max(1, len(values) // 4)]]
    return fmean(v for first, _ in parts for v in first), fmean(v for _, last in parts for v in last)


def broke(curve: Curve) -> float:
    """The step at which a run broke the model; ∞ if it did not."""
    return math.inf if curve.t_phi is None else curve.t_phi
