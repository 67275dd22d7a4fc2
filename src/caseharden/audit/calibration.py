"""A judge against labels that people gave: how often it is right, and what its errors do to a share it reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm

from caseharden.errors import CasehardenError
from caseharden.records.statistics import bounds


@dataclass(frozen=True)
class Share:
    """A share from 0 to 1 with its interval; NaN, and (0, 1), where there is nothing to take it of."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How often a judge and the labels agreed, as counts, with the shares that follow, each with Wilson's interval.

    `true_yes` answers are yes by both, `false_yes` by the judge only, `false_no` by the labels only, `true_no` by
    neither. `unscored` answers got no score and count towards nothing else.
    """

    true_yes: int
    false_yes: int
    false_no: int
    true_no: int
    unscored: int = 0
    confidence: float = 0.95

    @property
    def accuracy(self) -> Share:
        """Of all scored answers, those on which the judge is right."""
        right = self.true_yes + self.true_no
        return self._share(right, right + self.false_yes + self.false_no)

    @property
    def precision(self) -> Share:
        """Of the judge's yes, those that are one."""
        return self._share(self.true_yes, self.true_yes + self.false_yes)

    @property
    def recall(self) -> Share:
        """Of what is a yes, what the judge finds: its sensitivity."""
        return self._share(self.true_yes, self.true_yes + self.false_no)

    @property
    def specificity(self) -> Share:
        """Of what is a no, what the judge lets be."""
        return self._share(self.true_no, self.true_no + self.false_yes)

    def prevalence(self, yes: int, n: int) -> Share:
        """The true share of yes among `n` other answers of which the judge called `yes` one.

        (p + specificity − 1) / (recall + specificity − 1), clipped to [0, 1] (Rogan & Gladen 1978). The interval,
        of Lang & Reiczigel (2014), holds the uncertainty of all three shares. Assumes that the judge errs on these
        answers as on the labelled ones. NaN, and (0, 1), for a judge no better than chance, or without labels of
        both kinds. Raises `CasehardenError` unless 0 <= yes <= n and n > 0.
        """
        if not 0 <= yes <= n or n == 0:
            raise CasehardenError(f"{yes} of {n} answers is no share. Give 0 <= yes <= n, with n above 0.")
        se, sp = self.recall.value, self.specificity.value
        if not se + sp > 1:  # NaN among them
            return Share(math.nan, 0.0, 1.0)
        value = (yes / n + sp - 1) / (se + sp - 1)
        z = float(norm.ppf((1 + self.confidence) / 2))
        wide = (yes + z**2 / 2) / (n + z**2)
        n_yes, n_no = self.true_yes + self.false_no + 2, self.true_no + self.false_yes + 2
        se, sp = (self.true_yes + 1) / n_yes, (self.true_no + 1) / n_no
        if se + sp <= 1:
            return Share(_clipped(value), 0.0, 1.0)
        centre = (wide + sp - 1) / (se + sp - 1)
        in_yes, in_no = se * (1 - se) / n_yes, sp * (1 - sp) / n_no
        variance = wide * (1 - wide) / (n + z**2) + centre**2 * in_yes + (1 - centre) ** 2 * in_no
        half = z * math.sqrt(variance) / (se + sp - 1)
        centre += 2 * z**2 * (centre * in_yes - (1 - centre) * in_no)
        return Share(_clipped(value), _clipped(centre - half), _clipped(centre + half))

    def _share(self, part: int, whole: int) -> Share:
        value = part / whole if whole else math.nan
        return Share(value, *bounds(value, whole, self.confidence))


def calibration(
    scores: Sequence[float], labels: Sequence[bool], threshold: float = 0.5, confidence: float = 0.95
) -> Calibration:
    """A judge's scores beside people's labels of the same answers; a score above `threshold` is a yes.

    NaN scores are unscored. Raises `CasehardenError` if there are not as many of each.
    """
    if len(scores) != len(labels):
        raise CasehardenError(f"{len(scores)} scores and {len(labels)} labels. Give one label for each score.")
    told = [(score > threshold, bool(label)) for score, label in zip(scores, labels, strict=True) if score == score]
    return Calibration(
        true_yes=told.count((True, True)),
        false_yes=told.count((True, False)),
        false_no=told.count((False, True)),
        true_no=told.count((False, False)),
        unscored=len(scores) - len(told),
        confidence=confidence,
    )


def _clipped(share: float) -> float:
    return min(max(share, 0.0), 1.0)
