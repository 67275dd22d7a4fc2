"""The terminal's scoreboard."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from caseharden.records.names import called
from caseharden.records.results import Curve, Point, Reading, Results, Traits
from caseharden.report.table import readings, rows, scoreboard


def printed(results: Results, width: int = 80, table: Callable[[Results], object] = scoreboard) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table(results))
    return capture.get()


def test_one_line_for_each_defense_within_80_columns(results: Results) -> None:
    text = printed(results)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text  # no number is cut off
    assert len({line.index("harm") for line in lines if line.lstrip().startswith("defense")}) == 1
    assert any(line.split()[0] == "tar" and "> 500" in line and "> 25×" in line for line in lines if line.strip())
    assert text.index("almanac-1m") < text.index("SmolLM2")
    assert "without a score, counted as nothing: 102" in text
    assert "Failed runs, never evidence of resistance: 1" in text


def test_a_row_is_one_attack_whole_with_its_failures(results: Results) -> None:
    tar = next(row for row in rows(results) if row.defense == "tar")
    assert (tar.attack, str(tar.steps), tar.seeds, tar.failed) == ("sft(lr=1e-3)", "> 500", 2, 1)
    assert (tar.n, tar.unscored) == (228, 12)
    assert tar.before["harm"].value < 0.05 < tar.after["harm"].value


def test_what_is_left_where_nobody_rehearsed_stands_beside_utility(results: Results) -> None:
    """Within 80 columns; of several bystanders, the one that has lost most against the undefended model."""

    def asked(curve: Curve) -> Curve:
        left = {
            "bystander:blind": math.nan,
            "bystander:rivers": 0.9,
            "bystander:stars": 0.31 if curve.defense == "tar" else 0.98,
        }
        readings = {name: Reading(value, value - 0.02, value + 0.02, 432, 0) for name, value in left.items()}
        first, *later = curve.points
        return replace(curve, points=(replace(first, readings={**first.readings, **readings}), *later))

    found = replace(results, curves=tuple(map(asked, results.curves)))
    tar = next(row for row in rows(found) if row.defense == "tar")
    assert tar.bystander == "bystander:stars" and tar.before["bystander"].value == 0.31
    assert "bystander" not in tar.after, "asked before the attack only"
    text = printed(found)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    (line,) = (line for line in text.split("SmolLM2")[0].splitlines() if line.lstrip().startswith("tar"))
    assert "0.31→–" in line
    assert "Harm, utility and bystander as released" in text and "bystander" not in printed(results)


def test_the_way_of_asking_that_gets_most_of_an_attacked_model_is_named(results: Results) -> None:
    def wrapped(curve: Curve) -> Curve:
        return replace(curve, points=(curve.points[0], *(replace(p, way="wrapped") for p in curve.points[1:])))

    assert {row.way for row in rows(results)} == {""}
    found = replace(results, curves=tuple(map(wrapped, results.curves)))
    assert {row.way for row in rows(found)} == {"wrapped"}
    assert "asked wrapped" in " ".join(printed(found, width=200).split())


def test_a_peak_that_has_passed_is_kept() -> None:
    def point(budget: int, harm: float) -> Point:
        reading = Reading(harm, harm - 0.05, harm + 0.05, 100, 0)
        return Point(budget, {"harm": reading, "utility": reading})

    passed = Curve(
        "m", "d", "a", {}, 0, 10, None, (point(0, 0.1), point(10, 0.9), point(20, 0.2)), traits=Traits({})
    )
    (row,) = rows(Results("s", 0.5, "", {}, (passed,)))
    assert row.peak is not None and row.peak[0] == 10 and row.after["harm"].value == 0.2
    noise = replace(passed, points=(point(0, 0.1), point(10, 0.9), point(20, 0.88)))
    assert rows(Results("s", 0.5, "", {}, (noise,)))[0].peak is None


def test_names_are_not_read_as_markup(results: Results) -> None:
    odd = replace(results.curves[0], model="[red]m[/red]", names={"defense": "[/]"})
    text = printed(replace(results, curves=(odd,)))
    assert "[red]m[/red]" in text and "[/]" in text


NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?×?")
LONG = called("chain", {"stages": [{"patcher": {"loops": 24, "lr": 3e-4}}, {"safety_sft": {"max_steps": 60}}]})


@pytest.mark.parametrize("table", [scoreboard, readings])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_number_is_cut_however_narrow_the_terminal_and_long_the_name(
    results: Results, table, width: int
) -> None:
    curves = tuple(replace(curve, names={**curve.names, "defense": LONG}) for curve in results.curves)
    asked = replace(results, curves=curves)
    text, whole = printed(asked, width, table), printed(asked, 1000, table)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert {*NUMBER.findall(whole)} <= {*NUMBER.findall(text)} and LONG in whole
    assert LONG.replace(" ", "") in re.sub(r"\s", "", text) or width > 40  # folded beside other columns


def test_every_reading_is_in_the_table_of_an_attack_at_40_columns(results: Results) -> None:
    (curve,) = results.curves[:1]
    kept = [{name: point.readings[name] for name in ("harm", "utility")} for point in curve.points]
    points = tuple(replace(point, readings=two) for point, two in zip(curve.points, kept, strict=True))
    text = printed(replace(results, curves=(replace(curve, points=points),), failures=()), 40, readings)
    lines = [line.split() for line in text.splitlines()]
    assert ["steps", "harm", "utility"] in lines
    for point in points:
        harm, utility = point.readings.values()
        assert [str(point.budget), f"{harm.value:.3f}", f"{utility.value:.3f}"] in lines


def test_nothing_finished(empty: Results) -> None:
    assert rows(empty) == []
    for table in (printed(empty), "".join(str(part) for part in readings(empty).renderables), str(empty)):
        assert "No run of 'nothing yet' is measured to its end: 1 failed." in table
        assert "failed: m · tar · sft(lr=1) seed=0: out of memory" in table
    begun = replace(empty, failures=(), progress={"done": 0, "failed": 0, "missing": 2})
    assert printed(begun) == "No run of 'nothing yet' is measured to its end: 2 missing.\n"
