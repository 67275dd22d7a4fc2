"""What the documentation says: its studies are read, its examples run, its links lead somewhere."""

from __future__ import annotations

import dataclasses
import inspect
import re
import unicodedata
from pathlib import Path

import pytest

from caseharden import attacks, defenses, domains, engines, judges, measures
from caseharden.domains.almanac import Almanac
from caseharden.rl import advantages, rewards
from caseharden.rl.loop import PolicyGradient
from caseharden.store.store import Store
from caseharden.study.plan import plan
from caseharden.study.run import run_study
from caseharden.study.spec import StudySpec, parse, read_yaml
from caseharden.train import objectives
from caseharden.train.finetune import FineTune
from caseharden.train.optim import Descends
from toys import ToyDomain

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LEAST = {"name": "least", "domain": "almanac", "models": ["almanac-victim"]}
"""What a fragment of a study is completed with."""
TABLES = {
    "methods/index.md": attacks.TABLE | defenses.TABLE,
    "methods/objectives.md": objectives.TABLE,
    "methods/rl.md": rewards.TABLE | advantages.TABLE,
    "domains/index.md": domains.TABLE,
    "judges.md": judges.TABLE,
    "spec.md": measures.TABLE | engines.TABLE,
}
KINDS = (attacks, defenses, domains, engines, judges, measures)
EXAMPLES = ("shaken", "look-ahead", "doors", "judged")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, punctuation gone, spaces to hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "".join(c for c in h.lower() if c in "-_ " or unicodedata.category(c)[0] in "LN").replace(" ", "-")
        for h in headings
    }


@pytest.fixture
def examples(tmp_path, monkeypatch) -> dict[str, StudySpec]:
    """The studies of CONTRIBUTING.md, its modules importable."""
    page = ROOT / "CONTRIBUTING.md"
    for code in blocks(page, "python"):
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return {spec.name: spec for spec in map(parse, map(read_yaml, blocks(page, "yaml")))}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_study_on_a_page_can_be_read(page, examples):
    for text in blocks(page, "yaml"):
        assert plan(parse({**LEAST, **read_yaml(text)}))


@pytest.mark.parametrize("study", EXAMPLES)
def test_every_example_of_contributing_runs(study, examples, tiny_lm, tmp_path):
    assert set(examples) == set(EXAMPLES)
    spec = examples[study]
    domain = ToyDomain() if isinstance(spec.domain, Almanac) else spec.domain
    tiny_lm.tokenizer.unk_token = None  # it knows next to no English, which here is no mistake
    tiny_lm.save(tmp_path / "tiny")
    short = tuple(defense and dataclasses.replace(defense, max_steps=2) for defense in spec.defenses)
    small = dataclasses.replace(
        spec, models=(str(tmp_path / "tiny"),), domain=domain, defenses=short, budgets=(0, 2)
    )
    events = list(run_study(small, Store(tmp_path / "store")))
    assert sum(event.what == "done" for event in events) == len(plan(small))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", TABLES)
def test_every_name_that_a_spec_may_use_is_explained(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert not [one for one in TABLES[page] if f"`{one}`" not in text]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_first_lines_say_what_a_thing_does(kind):
    """`caseharden list` shows them: a verb first, and no citation in its place."""
    firsts = {called: (inspect.getdoc(cls) or "").split("\n")[0] for called, cls in kind.TABLE.items()}
    assert not {called: first for called, first in firsts.items() if not re.match(r"[A-Z][a-z-]+s [^(]", first)}


def test_every_field_of_a_study_is_explained():
    text = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    assert not [field.name for field in dataclasses.fields(StudySpec) if f"| `{field.name}` |" not in text]


@pytest.mark.parametrize("method", [*attacks.TABLE.items(), *defenses.TABLE.items()], ids=lambda item: item[0])
def test_every_field_of_a_method_is_explained(method):
    called, cls = method
    folder = ROOT / "docs" / "methods"
    page = re.search(rf"\[`{called}`\]\((\w+\.md)", (folder / "index.md").read_text(encoding="utf-8"))
    text = (folder / page[1]).read_text(encoding="utf-8")
    bases = {*cls.__mro__[1:]} & {*attacks.TABLE.values(), *defenses.TABLE.values()}  # explained on their own pages
    bases |= {PolicyGradient} if cls.__module__.startswith("caseharden.defenses") else set()
    bases |= {Descends, FineTune} if cls is not attacks.SFT else set()  # explained on SFT's page
    inherited = {name for base in bases for name in getattr(base, "__dataclass_fields__", ())}
    own = {field.name for field in dataclasses.fields(cls)} - inherited
    assert not [one for one in own if f"`{one}`" not in text]
