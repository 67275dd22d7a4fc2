"""Figures for papers, and what the report package may import."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from caseharden.errors import CasehardenError
from caseharden.records.results import Point, Reading, Results
from caseharden.report import figures
from caseharden.report.figures import write_figures


def test_png_and_svg_of_both_figures_always_the_same(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "DPI", 60)
    results = replace(results, curves=results.curves[:18])
    written = write_figures(results, tmp_path / "a")
    names = [path.name for path in written]
    assert names == [
        f"{n}.{kind}" for n in ("harm-against-steps", "harm-beside-utility") for kind in ("png", "svg")
    ]
    assert written[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in written[1].read_bytes()
    again = write_figures(results, tmp_path / "b")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_dollar_signs_and_missing_scores_are_drawn(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "DPI", 60)
    blind = Reading(math.nan, math.nan, math.nan, 0, 9)
    first = results.curves[0]
    points = (*first.points[:3], Point(50, {"harm": blind, "utility": blind}))
    odd = replace(first, model="a $x^{ model$ for $5", points=points)
    assert len(write_figures(replace(results, curves=(odd,)), tmp_path)) == 4


def test_a_bystander_has_a_figure_of_its_own(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "DPI", 60)
    left = Reading(0.9, 0.85, 0.95, 432, 0)
    first = results.curves[0]
    points = tuple(replace(p, readings={**p.readings, "bystander": left}) for p in first.points)
    written = write_figures(replace(results, curves=(replace(first, points=points),)), tmp_path)
    assert {path.stem for path in written[4:]} == {"harm-beside-bystander"}


def test_nothing_finished_nothing_drawn(empty: Results, tmp_path: Path) -> None:
    assert write_figures(empty, tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CasehardenError, match="Name a file in a folder"):
        write_figures(results, tmp_path / "file")


def test_reports_need_no_torch() -> None:
    code = (
        "import sys; from caseharden.report import export, figures, html, table; "
        "sys.exit(', '.join({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
