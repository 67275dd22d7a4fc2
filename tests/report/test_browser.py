"""The page in a real browser: it draws, it answers the keyboard, it fetches nothing, it complains of nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from caseharden.records.results import Results
from caseharden.report.html import write_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(results, tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_works(browser: object, report: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('.chart .main-svg').length >= 6")

    assert page.title() == "Kiln: three defenses, two models · Caseharden", "a sample's script has run"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"

    note = page.locator("#note-2")
    assert "sft(lr=1e-3)" in note.inner_text()
    page.focus("#attack")
    page.keyboard.press("ArrowDown")
    assert note.inner_text() == "sft(lr=2e-5): broken at 500 steps; undefended: broken at 100 steps."

    plotted = "document.querySelectorAll('[data-chart=\"0\"] .scatterlayer .trace').length"
    before = page.evaluate(plotted)
    page.focus("#legend input")
    page.keyboard.press("Space")
    assert 0 < page.evaluate(plotted) < before

    assert complaints == []
    assert requests == [report.as_uri()]
    page.close()
