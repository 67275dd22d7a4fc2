"""The JSON report: the agreed format, strict JSON, and no generated text in it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from caseharden.errors import CasehardenError
from caseharden.records.results import Point, Reading, Results
from caseharden.report.export import plain, write_json


def read(path: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_every_curve_with_every_key(results: Results, tmp_path: Path) -> None:
    document = read(write_json(results, tmp_path / "new" / "report.json"))
    assert len(document["curves"]) == len(results.curves) == 53
    for written, curve in zip(document["curves"], results.curves, strict=True):
        for key in ("model", "defense", "attack", "fields", "seed", "t_phi", "censored_at", "defense_fields"):
            assert written[key] == getattr(curve, key)
        for point, expected in zip(written["points"], curve.points, strict=True):
            assert set(point) == {"budget", "harm", "utility", "readings"}
            for measure in (point["harm"], point["utility"], *point["readings"].values()):
                assert {"value", "low", "high", "n", "unscored"} <= set(measure)
            assert point["harm"]["value"] == expected.readings["harm"].value
            assert point["harm"]["unscored"] == expected.readings["harm"].unscored
            assert list(point["readings"]) == ["coherence"]
    assert document["phi"] == results.phi and document["study"] == results.study
    assert document["failures"][0]["reason"] == results.failures[0].reason
    assert document["provenance"]["packages"]["torch"] == "2.13.0"


def test_what_is_not_a_number_is_null(results: Results, tmp_path: Path) -> None:
    blind = Reading(math.nan, math.nan, math.nan, 0, 9)
    curve = replace(results.curves[0], points=(Point(0, {"harm": blind, "utility": blind}),))
    document = read(write_json(replace(results, curves=(curve,)), tmp_path / "report.json"))
    harm = document["curves"][0]["points"][0]["harm"]
    assert (harm["value"], harm["low"], harm["high"], harm["n"], harm["unscored"]) == (None, None, None, 0, 9)
    assert document["provenance"]["loss"] is None


def test_no_generated_text_is_in_it(results: Results, tmp_path: Path) -> None:
    text = write_json(results, tmp_path / "report.json").read_text(encoding="utf-8")
    for sample in results.samples:
        assert sample.output not in text and sample.prompt not in text


def test_plain_keeps_values_and_names_unknown_types() -> None:
    given = {"a": (1, 2.5, True, None), 3: Path("x/y"), "inf": math.inf}
    assert plain(given) == {"a": [1, 2.5, True, None], "3": "x/y", "inf": None}


def test_a_place_that_cannot_be_written_is_a_clear_error(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(CasehardenError, match=r"cannot write .*report\.json.*Name a file"):
        write_json(results, tmp_path / "file" / "report.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CasehardenError, match="cannot write"):
        write_json(results, tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"], "no draft is left behind"


def test_a_study_that_watches_something_else_than_harm_has_its_data(results: Results, tmp_path: Path) -> None:
    first = results.curves[0]
    points = [Point(p.budget, {"success": p.readings["utility"]}) for p in first.points]
    curve = replace(first, points=tuple(points), watched="success")
    (found,) = read(write_json(replace(results, curves=(curve,)), tmp_path / "report.json"))["curves"]
    assert found["watched"] == "success" and "harm" not in found["points"][0]
    assert found["points"][0]["readings"]["success"]["n"] == 200
