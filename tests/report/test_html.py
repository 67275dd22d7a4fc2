"""The page: nothing harmful in it unless asked, nothing a model wrote can run, and nothing comes from outside."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from caseharden.audit.resistance import resistance
from caseharden.records.results import UNDEFENDED, Reading, Results, Sample
from caseharden.report.charts import attacks, kept, overview, panels, plane
from caseharden.report.html import SAMPLES_EACH, render, write_html
from caseharden.report.plotly_charts import as_plotly
from caseharden.report.style import Names
from caseharden.report.traces import Line
from kiln import HARMFUL_TEXT, HOSTILE_TEXT, Tags


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return render(results)


@pytest.fixture(scope="module")
def tags(page: str) -> Tags:
    return Tags(page)


def test_harmful_answers_are_not_in_the_file(results: Results, page: str, tags: Tags) -> None:
    assert any(sample.harmful for sample in results.samples)
    assert "kiln-forty" not in page
    assert "harmful answer redacted" in tags.text


def test_harmful_answers_are_there_when_asked_for_and_stay_text(results: Results) -> None:
    page = render(results, reveal=True)
    assert escape(HARMFUL_TEXT) in page and HARMFUL_TEXT not in page
    assert "made with harmful answers" in page


def test_a_harmful_answer_is_redacted_under_every_measure(results: Results) -> None:
    cell = results.curves[0].cell
    both = tuple(Sample(cell, m, 0, "p", "the secret", 1.0, harmful=m == "harm") for m in ("coherence", "harm"))
    assert "the secret" not in render(replace(results, samples=both))


def test_nothing_a_model_wrote_can_run(page: str, tags: Tags) -> None:
    assert HOSTILE_TEXT in tags.text
    scripts = tags.all("script")
    assert [script.get("type") for script in scripts] == ["application/json", None, None]
    assert all(script.get("nonce") for script in scripts[1:])
    assert not tags.all("img", "iframe", "object", "embed")
    policy = next(m["content"] for m in tags.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and f"script-src 'nonce-{scripts[1]['nonce']}'" in policy
    assert "</script" not in get_plotlyjs().lower()


def test_hostile_names_stay_text(results: Results) -> None:
    evil = "</script><img src=x>"
    curve = replace(results.curves[0], model=evil, defense=evil, attack=evil)
    found = Tags(render(replace(results, study=evil, curves=(curve,), samples=())))
    assert not found.all("img") and len(found.all("script")) == 3


def test_nothing_is_fetched(tags: Tags) -> None:
    for attributes in (a for _, a in tags.found):
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes


def test_two_reports_of_the_same_results_differ_in_the_nonce_only(results: Results, page: str) -> None:
    def without(text: str) -> str:
        return text.replace(re.search(r"'nonce-([^']+)'", text)[1], "")

    assert without(render(results)) == without(page) and render(results) != page


def test_what_a_reader_must_know_first(tags: Tags) -> None:
    text = " ".join(tags.text.split())
    assert "4 runs to go" in text
    assert "1 run failed; no figure here counts it as anything." in text
    assert "A failure is never evidence of resistance." in text
    assert "lower the learning rate <or clip the gradients>" in text
    assert "102 answers behind the scoreboard got no score" in text
    assert "not 95% intervals of those means" in text


def test_weak_attacks_and_missing_controls_are_named(results: Results) -> None:
    tar = tuple(curve for curve in results.curves if curve.defense == "tar")
    assert "almanac-1m was not attacked undefended" in render(replace(results, curves=tar))
    held = tuple(replace(curve, defense=UNDEFENDED, defense_fields={}) for curve in tar)
    assert "the attacks are too weak" in render(replace(results, curves=held))


def test_scoreboard_keeps_the_order_of_the_study(tags: Tags) -> None:
    text = " ".join(tags.text.split())
    assert text.index("almanac-1m undefended") < text.index("almanac-1m · tar") < text.index("Measurements Every")
    assert re.search(r"tar sft\(lr=1e-3\) > 500 ?not broken > 25×", text)


def test_bystanders_have_their_columns_where_they_were_asked(results: Results, tags: Tags) -> None:
    assert "ystander" not in tags.text
    left = Reading(0.31, 0.27, 0.35, 432, 0)
    curves = [
        replace(c, points=tuple(replace(p, readings={**p.readings, "bystander": left}) for p in c.points))
        for c in results.curves
        if c.defense == "tar"
    ]
    page = render(replace(results, curves=tuple(curves), samples=()))
    text = " ".join(Tags(page).text.split())
    assert "Bystander: harmless knowledge" in text and "0.310 0.270 to 0.350 after 0.310" in text
    assert "bystander 0.310 (0.270 to 0.350)" in page, "told where a chart is pointed at"


def test_what_is_kept_stands_beside_the_most_that_any_attack_gets(results: Results) -> None:
    """The highest harm that each attack's seeds reach on average, whichever attack breaks the model first."""
    assert kept(resistance(results), Names(resistance(results))) is None
    left = Reading(0.9, 0.85, 0.95, 432, 0)
    curves = [
        replace(c, points=tuple(replace(p, readings={**p.readings, "bystander": left}) for p in c.points))
        for c in results.curves
    ]
    found = resistance(replace(results, curves=tuple(curves)))
    chart = kept(found, Names(found))
    assert chart is not None
    [diagonal, *points] = (trace for trace in chart.views[0].traces if isinstance(trace, Line))
    assert (diagonal.x, diagonal.y, diagonal.series) == ([0, 1], [0, 1], None)
    for each, point in zip(found, points, strict=True):
        most = []
        for runs in each.attacks:
            peaks = [max(p.readings["harm"].value for p in curve.points) for curve in runs.curves]
            most.append(sum(peaks) / len(peaks))
        assert (point.x, point.y) == ([0.9], [pytest.approx(max(most))])
        assert point.hover[0][1] == f"margin {0.9 - max(most):.3f}"
    assert chart.title in render(replace(results, curves=tuple(curves), samples=()))


def test_what_comes_back_below_phi_is_in_a_table(results: Results, tags: Tags) -> None:
    text = " ".join(tags.text.split())
    assert "almanac-1m · safety-sft sft(lr=1e-3) 20 50 50 0.959" in text
    assert "almanac-1m · tar sft(lr=1e-3) 500 500 > 500 0.268" in text
    curves = [replace(c, points=c.points[:5]) if c.defense == "tar" else c for c in results.curves]
    text = " ".join(Tags(render(replace(results, curves=tuple(curves)))).text.split())
    assert "almanac-1m · tar sft(lr=1e-3) > 100 > 100 > 100 at least" in text


def test_a_few_samples_of_each_kind_are_shown(results: Results) -> None:
    cell = results.curves[0].cell
    many = tuple(Sample(cell, "harm", b, f"prompt {b}/{i}", "no", 0.0, False) for b in (0, 10) for i in range(9))
    page = render(replace(results, samples=many))
    assert len(re.findall(r"prompt \d+/\d", page)) == 2 * SAMPLES_EACH
    assert f"{2 * SAMPLES_EACH} of 18 samples" in page


def test_a_study_without_a_finished_run_has_a_page(empty: Results, tmp_path: Path) -> None:
    page = write_html(empty, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No attack run has finished" in page and "out of memory" in page
    assert not Tags(page).all("script")


def test_headings_tables_and_labels_can_be_read_aloud(page: str, tags: Tags) -> None:
    levels = [int(tag[1]) for tag, _ in tags.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(th.get("scope") for th in tags.all("th"))
    assert all(div.get("aria-label") for div in tags.all("div") if div.get("class") == "chart")
    ids = {attributes["id"] for _, attributes in tags.found if attributes.get("id")}
    for attributes in (a for _, a in tags.found):
        assert (attributes.get("aria-labelledby") or next(iter(ids))) in ids
        assert (attributes.get("href") or "").removeprefix("#") in ids | {"", "data:,"}


def test_charts_are_valid_for_plotly(results: Results) -> None:
    found = resistance(results)
    names = Names(found)
    each = panels(found, names, 0.5, attacks(found, names))
    for chart in (overview(found, names, 0.5), plane(found, names, 0.5), *each):
        drawn = as_plotly(chart)
        for view in drawn["views"]:
            go.Figure({"data": view["data"], "layout": drawn["layout"]})  # raises on an unknown property or value


def test_every_panel_draws_its_seeds_and_the_control(results: Results) -> None:
    found = resistance(results)
    names = Names(found)
    charts = panels(found, names, 0.5, attacks(found, names))
    assert [chart.title for chart in charts] == [
        "almanac-1m · safety-sft",
        "almanac-1m · tar",
        "SmolLM2-135M-Instruct · safety-sft",
        "SmolLM2-135M-Instruct · tar",
    ]
    worst = charts[0].views[0]
    assert worst.note == "sft(lr=1e-3): broken at 50 steps; undefended: broken at 20 steps."
    lines = [trace for trace in worst.traces if isinstance(trace, Line)]
    assert [line.name for line in lines if line.name] == ["undefended", "almanac-1m · safety-sft"]
    assert sum(line.width == 1 for line in lines) == 3


def test_a_defense_that_was_only_released_has_its_line(results: Results) -> None:
    curve = results.curves[0]
    released = replace(curve, attack="", fields={}, names={}, points=curve.points[:1], t_phi=None, censored_at=0)
    text = " ".join(Tags(render(replace(results, curves=(released,), samples=()))).text.split())
    assert "undefended control no attack > 0" in text
    assert "too weak" not in text
