"""Names, colors and axes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from caseharden.audit.resistance import resistance
from caseharden.records.results import Results
from caseharden.report.style import COLORS, CONTROL, Names, number, place, ticks


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", [*COLORS, CONTROL.color])
@pytest.mark.parametrize("page", ["#ffffff", "#12151a"])
def test_colors_can_be_seen_on_light_and_dark(color: str, page: str) -> None:
    dark, light = sorted((luminance(color), luminance(page)))
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.1, 1.4.11


def test_names_are_the_same_whatever_stands_beside(results: Results) -> None:
    found = resistance(results)
    names = Names(found)
    called = names.attack(found[0].attacks[0])
    assert called == "sft(lr=2e-5)"
    assert found[1].name == "safety-sft"
    assert names.series(found[1]) == "almanac-1m · safety-sft"
    alone = resistance(replace(results, curves=results.curves[:1]))
    assert Names(alone).attack(alone[0].worst) == called
    assert Names(alone).series(alone[0]) == "undefended"


def test_a_defense_looks_the_same_on_every_model_but_for_the_dash(results: Results) -> None:
    found = resistance(results)
    names = Names(found)
    styles = {(each.model, each.defense): names.style(each) for each in found}
    here, there = styles["almanac-1m", "tar"], styles["SmolLM2-135M-Instruct", "tar"]
    assert (here.color, here.marker) == (there.color, there.marker) and here.dash != there.dash
    assert len({style.color for style in styles.values()}) == len({s.marker for s in styles.values()}) == 3


def test_ticks_keep_the_ends_and_never_crowd() -> None:
    budgets = [0, 1, *range(10, 1001, 10)]
    kept = ticks(budgets)
    assert kept[0] == 0 and kept[-1] == 1000
    gaps = [place(b) - place(a) for a, b in pairwise(kept)]
    assert min(gaps) > place(1000) / 12
    assert ticks([0, 10, 20, 50, 100]) == [0, 10, 20, 50, 100]
    assert ticks([]) == [] and ticks([0]) == [0]


def test_a_score_that_is_not_there_is_a_dash() -> None:
    assert number(math.nan) == "–" and number(0.0) == "0.000"
