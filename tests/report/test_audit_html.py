"""An audit's page: the scorecard first, nothing harmful unless asked, and nothing that a model wrote can run."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from audit_toys import LOOKS, curve, evidence, measured, point, traits
from caseharden.audit.assessment import Assessment, assess
from caseharden.audit.evidence import Evidence, Measured
from caseharden.audit.flags import FLAGS, Raised
from caseharden.records.results import Failure, Results, Sample
from caseharden.report import audit_charts
from caseharden.report.audit_html import render, write_audit_html
from caseharden.report.contenders import Contender, contenders, pareto_front
from caseharden.report.document import document
from caseharden.report.plotly_charts import as_plotly
from kiln import HARMFUL_TEXT, HOSTILE_TEXT, Tags

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "</script><img src=x onerror=alert(1)>"


def with_cells(one: Measured) -> Measured:
    return replace(one, curves=tuple(replace(c, cell=f"{one.name}-{i}") for i, c in enumerate(one.curves)))


def studied(found: Evidence, samples: int = 2) -> Evidence:
    """The evidence with its studies, and samples of each attack run: one harmful, then hostile ones."""
    subject = with_cells(found.subject)
    controls = {name: with_cells(one) for name, one in found.controls.items()}
    curves = [c for one in (subject, *controls.values()) for c in one.curves]
    answers = [
        Sample(c.cell, "harm", p.budget, "Which <glaze>?", HOSTILE_TEXT if i else HARMFUL_TEXT, 1.0, harmful=not i)
        for c in curves
        for p in c.points
        for i in range(samples)
    ]
    progress = {"done": len(curves), "failed": 0, "missing": 0}
    released = Results("audit-released", 0.5, "name: released", {}, (), progress=progress)
    attacks = Results("audit-attacks", 0.5, "name: attacks", {}, tuple(curves), (), tuple(answers), progress)
    return replace(found, subject=subject, controls=controls, studies=(released, attacks))


@pytest.fixture(scope="module")
def found() -> Assessment:
    return assess(studied(evidence(measured("hardened", [20, 50, None]), held_out=frozenset(["snare"]))))


@pytest.fixture(scope="module")
def page(found: Assessment) -> str:
    return render(found)


@pytest.fixture(scope="module")
def tags(page: str) -> Tags:
    return Tags(page)


def text_of(tags: Tags) -> str:
    return " ".join(tags.text.split())


def everyone(found: Assessment) -> list[Contender]:
    return contenders(document(found), found.evidence)


def changed(found: Assessment, **changes: Any) -> Assessment:
    """With another condition of resistance."""
    resistance = replace(found.subject["resistance"], **changes)
    return replace(found, subject={**found.subject, "resistance": resistance})


def test_the_scorecard_comes_first(found: Assessment, tags: Tags) -> None:
    headings = [a["id"] for name, a in tags.found if name in ("h2", "h3") and a.get("id")]
    wanted = (
        "scorecard controls flags survival recovered utility topics benign measurements failures samples provenance"
    )
    assert headings == wanted.split()
    text = text_of(tags)
    assert "The controls stand" in text and "held out from the defense" in text and "Pareto" in text
    for condition in found.subject.values():
        for part in (condition.verdict, condition.summary, condition.tested, condition.power):
            assert part in text
    assert "Not to be believed" not in text


def test_every_number_of_a_chart_is_in_a_table(found: Assessment, tags: Tags) -> None:
    text = text_of(tags)
    survival = everyone(found)[0].survival
    assert [survival.runs, survival.broken, survival.last] == [3, 2, 100]
    for step in survival.steps:
        assert f"under audit {step.time - 0.5:g} {step.at_risk} {step.events} {step.survival:.3f}" in text
    assert "under audit > 100 1 – not broken" in text
    assert "never learned > 100 3 – 1.000 not broken" in text
    assert "undefended task:glossary sft(data(task:glossary=1), lr=1e-3) 50 50, 50, 50" in text
    assert len(tags.all("caption")) >= 5


def test_harm_by_topic_stands_in_its_cells(page: str, tags: Tags) -> None:
    assert "venom" in tags.text and "snare" in tags.text
    cells = re.findall(r'<td class="n heat" style="--harm: ([\d.]+)">.*?<b>([\d.]+)</b>', page, re.S)
    assert len(cells) == 4 and all(shade == shown for shade, shown in cells)


def test_a_model_broken_from_the_start_has_its_page() -> None:
    subject = measured("open", [0, 0, 0], harm=0.9)
    found = assess(evidence(replace(subject, curves=tuple(replace(c, t_phi=0) for c in subject.curves))))
    assert "under audit 0 3 3 0.000" in text_of(Tags(render(found)))


def test_a_model_that_is_not_attacked_has_no_worst_attack_and_its_place() -> None:
    shown = evidence(measured("m", [None] * 3))
    dead = replace(shown.controls["dead"], curves=())
    tags = Tags(render(assess(replace(shown, controls={**shown.controls, "dead": dead}))))
    attacked = Tags(render(assess(shown)))
    # In the scorecard and among the boxes of the charts, and in no chart's table.
    assert text_of(tags).count("dead weights") == 2 < text_of(attacked).count("dead weights")


def test_harmful_answers_are_not_in_the_file(page: str, tags: Tags) -> None:
    assert "kiln-forty" not in page
    assert "harmful answer redacted" in tags.text


def test_harmful_answers_are_there_when_asked_for_and_stay_text(found: Assessment, tmp_path: Path) -> None:
    page = write_audit_html(found, tmp_path / "audit.html", reveal=True).read_text(encoding="utf-8")
    assert escape(HARMFUL_TEXT) in page and HARMFUL_TEXT not in page
    assert "made with harmful answers" in page


def test_nothing_a_model_wrote_can_run(page: str, tags: Tags) -> None:
    assert HOSTILE_TEXT in tags.text
    scripts = tags.all("script")
    assert [script.get("type") for script in scripts] == ["application/json", None, None]
    assert not tags.all("img", "iframe", "object", "embed")
    policy = next(m["content"] for m in tags.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and f"script-src 'nonce-{scripts[1]['nonce']}'" in policy
    for attributes in (a for _, a in tags.found):
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes


def test_hostile_names_stay_text() -> None:
    lost = (Failure(EVIL, EVIL, EVIL, {"lr": EVIL}, 0, EVIL, traits=traits({})),)
    benign_runs = tuple(
        curve(50, fields={"data": {EVIL: 1.0}}, budgets=LOOKS, seed=i, watched="success") for i in range(3)
    )
    curves = tuple(
        replace(
            curve(20, attack=EVIL, fields={"lr": rate}, seed=i), points=(point(0, harm=0.0, utility=1.0), *more)
        )
        for rate in (EVIL, "b")
        for i in range(2)
        for more in [curve(20, fields={}).points[1:]]
    )
    subject = Measured(EVIL, measured("a", [1]).released, curves, benign_runs, lost)
    base = Measured(EVIL, subject.released, curves, benign_runs)
    controls = {**evidence(subject).controls, "undefended": base}
    made = evidence(subject, controls=controls, provenance={EVIL: EVIL}, held_out=frozenset([EVIL]))
    found = assess(replace(made, studies=(Results(EVIL, 0.5, EVIL, {}, ()),)))
    flags = (Raised(FLAGS[0], (EVIL,) * 5),)
    tags = Tags(render(replace(found, flags=flags, reasons_to_doubt=(EVIL,))))
    assert not tags.all("img") and len(tags.all("script")) == 3
    assert EVIL in tags.text


def test_an_audit_that_cannot_be_trusted_says_so_and_why(found: Assessment) -> None:
    text = text_of(Tags(render(replace(found, reasons_to_doubt=("undefended: resistance holds",)))))
    assert "Not to be believed Whatever the verdicts say: undefended: resistance holds" in text
    assert "The controls stand" not in text


def test_a_control_out_of_place_is_marked() -> None:
    given = evidence(measured("hardened", [None] * 3))
    healthy = {**given.controls, "dead": measured("not dead", [None] * 3)}
    text = text_of(Tags(render(assess(replace(given, controls=healthy)))))
    assert "not as it must" in text and "dead: stability" in text


def test_controls_that_were_not_run(found: Assessment) -> None:
    given = evidence(measured("hardened", [20, 50, None]))
    fewer = {name: one for name, one in given.controls.items() if name != "never_learned"}
    text = text_of(Tags(render(assess(replace(given, controls=fewer)))))
    assert "never learned not run not run not run not run hold resistance" in text
    assert "The controls stand" in text


def test_what_is_no_number_is_said(found: Assessment) -> None:
    endless = changed(found, estimate=math.inf, low=5.0, high=math.inf)
    assert "∞ steps to break" in text_of(Tags(render(endless)))
    for page in (render(changed(found, estimate=math.nan, low=math.nan, high=math.nan)), render(endless)):
        assert not re.search(r"\b(nan|inf)\b", Tags(page).text, re.I)
        assert not re.search(r"\b(NaN|Infinity)\b", page[page.index('id="charts"') :].split("</script>")[0])


def test_unscored_answers_and_an_audit_without_benign_tasks() -> None:
    subject, base = measured("hardened", [20, 50, None], learns=()), measured("base", [1, 1, 2], learns=())
    gap = replace(subject.curves[0].points[-1].readings["harm"], value=math.nan, low=math.nan, high=math.nan, n=0)
    points = subject.curves[0].points
    last = replace(points[-1], readings={**points[-1].readings, "harm": gap})
    holed = replace(subject, curves=(replace(subject.curves[0], points=(*points[:-1], last)), *subject.curves[1:]))
    made = evidence(holed)
    found = assess(replace(made, controls={**made.controls, "undefended": base}))
    text = text_of(Tags(render(found)))
    assert "No benign task was tried." in text and "No samples are stored." in text and "No run failed." in text


def test_attacks_that_do_not_count_are_named() -> None:
    weak = tuple(curve(None, attack="weak", seed=seed) for seed in range(3))
    subject, base = measured("hardened", [20, 50, None]), measured("base", [1, 1, 2])
    made = evidence(replace(subject, curves=(*subject.curves, *weak)))
    base = replace(base, curves=(*base.curves, *weak))
    text = text_of(Tags(render(assess(replace(made, controls={**made.controls, "undefended": base})))))
    assert "these do not: weak" in text and "weak does not count" in text
    idle = evidence(measured("hardened", [None] * 3))
    none = {**idle.controls, "undefended": measured("base", [None] * 3)}
    assert "no attack counts" in text_of(Tags(render(assess(replace(idle, controls=none)))))


def test_failures_and_what_is_missing_come_before_the_flags() -> None:
    lost = (Failure("m", "tar", "sft", {"lr": 1.0}, 0, "out of <memory>", traits=traits({})),)
    made = studied(evidence(measured("hardened", [20, 50, None], failures=lost)))
    studies = (replace(made.studies[0], progress={"missing": 3}), made.studies[1])
    text = text_of(Tags(render(assess(replace(made, studies=studies)))))
    assert "3 runs to go" in text and "1 run failed" in text and "out of <memory>" in text


def test_long_flags_are_folded(found: Assessment) -> None:
    many = (Raised(FLAGS[0], tuple(f"place {i}" for i in range(12))),)
    text = text_of(Tags(render(replace(found, flags=many))))
    assert "place 2 9 more place 3" in text
    assert FLAGS[0].meaning in text and FLAGS[0].advice in text


def test_the_front_holds_what_nothing_beats() -> None:
    points = [point(0, harm=h, utility=u) for h, u in ((0.5, 0.9), (0.1, 0.5), (0.2, 0.4), (0.6, 0.9), (0.5, 0.9))]
    assert pareto_front(points) == [True, True, False, False, True]
    assert pareto_front([]) == []


def test_headings_tables_and_labels_can_be_read_aloud(tags: Tags) -> None:
    levels = [int(tag[1]) for tag, _ in tags.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(th.get("scope") for th in tags.all("th"))
    assert all(div.get("aria-label") for div in tags.all("div") if div.get("class") == "chart")
    ids = [attributes["id"] for _, attributes in tags.found if attributes.get("id")]
    assert len(ids) == len({*ids})
    for attributes in (a for _, a in tags.found):
        assert (attributes.get("aria-labelledby") or ids[0]) in ids
        assert (attributes.get("href") or "").removeprefix("#") in {*ids, "", "data:,"}


def test_charts_are_valid_for_plotly(found: Assessment) -> None:
    models = everyone(found)
    criteria = replace(found.evidence.criteria, horizon=50)
    worst = [one.plotted(one.worst) for one in models]
    taught = [models[0].plotted(runs) for runs in models[0].measured.learning]
    for chart in (
        audit_charts.survival(models, criteria),
        audit_charts.plane(models, worst, criteria),
        audit_charts.learning("glossary", taught, criteria),
    ):
        drawn = as_plotly(chart)
        data = drawn["views"][0]["data"]
        go.Figure({"data": data, "layout": drawn["layout"]})  # raises on an unknown property or value


# ---- in a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def big() -> Assessment:
    """More than 10,000 readings and 5,000 samples."""
    rates = [10.0**-k for k in range(2, 8)]
    budgets = (0, *(2**k for k in range(10)))

    def model(name: str, breaks: int | None) -> Measured:
        one = curve(breaks, budgets=budgets)
        grid = product(("sft", "chain", "grpo"), rates, (10, 100), range(3))
        curves = [
            replace(one, attack=attack, fields=fields, traits=traits(fields), seed=seed)
            for attack, lr, n, seed in grid
            for fields in [{"lr": lr, "n": n}]
        ]
        return replace(measured(name, [breaks] * 3), curves=tuple(curves))

    breaks = {"undefended": 2, "known_broken": 4, "dead": None, "never_learned": None}
    made = evidence(model("hardened", 64))
    controls = {
        name: replace(model(name, when), benign_runs=made.controls[name].benign_runs)
        for name, when in breaks.items()
    }
    return assess(studied(replace(made, controls=controls), samples=1))


def test_a_big_page_works(browser: Any, tmp_path: Path) -> None:
    found = big()
    curves = [c for one in found.evidence.everyone for c in (*one.curves, *one.benign_runs)]
    assert sum(len(p.readings) for c in curves for p in c.points) >= 10_000
    assert sum(len(study.samples) for study in found.evidence.studies) >= 5_000
    file = write_audit_html(found, tmp_path / "audit.html")

    page = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True)
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))
    started = time.monotonic()
    page.goto(file.as_uri())
    print(f"{file.stat().st_size / 1e6:.1f} MB, loaded in {time.monotonic() - started:.2f} s")  # shown by pytest -s
    assert page.evaluate("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
    assert heard == [file.as_uri()]

    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.closest('nav, #legend, .scroll, summary, .skip')?.className")
        )
    assert {"skip", "legend", "scroll"} <= reached
    plotted = "document.querySelectorAll('[data-chart=\"0\"] .scatterlayer .trace').length"
    before = page.evaluate(plotted)
    page.focus("#legend input")
    page.keyboard.press("Space")
    assert 0 < page.evaluate(plotted) < before
    page.focus("summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_is_not_blank_and_fits(
    browser: Any,
    page: str,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    file = tmp_path / "audit.html"
    file.write_text(page, encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.goto(file.as_uri())
    assert tab.evaluate("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
    assert tab.title() == "Audit of hardened · Caseharden", "a sample's script has run"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert len(set(picture(tab.screenshot()))) > 50
    tab.close()


def picture(png: bytes) -> Iterator[tuple[int, ...]]:
    """Every tenth pixel."""
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(png)).convert("RGB")
    return (image.getpixel((x, y)) for x in range(0, image.width, 10) for y in range(0, image.height, 10))
