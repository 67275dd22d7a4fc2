"""The model card of a hardened model."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard

from caseharden.records.results import UNDEFENDED, Curve, Point, Reading, Results, Traits
from caseharden.report.model_card import NONE_YET, has_place, put_audit, write_card

FIELDS = {"patcher": {"loops": 24, "watch": None, "note": "```\n<b>"}}


def curve(defense: str, harm: float) -> Curve:
    reading = Reading(harm, 0.0, 1.0, 12, 3, "verifier", "7")
    return Curve("m", defense, "", {}, 0, None, 0, (Point(0, {"harm": reading}),), traits=Traits({}))


def written(folder, *curves: Curve, base: str = "owner/model"):
    results = Results("harden", 0.5, "", {"packages": {"torch": "9.9"}}, curves)
    about = {"base": base, "base_weights": "b" * 64, "weights": "a" * 64, "domain": {"prompts": {"harmful": "x"}}}
    return write_card(folder, results, name="patcher(loops=24)", method=FIELDS, seed=5, **about)


def test_a_card_says_what_was_done_and_measured(tmp_path):
    path = written(tmp_path, curve(UNDEFENDED, 0.875), curve("patcher", 0.125))
    card = ModelCard.load(path)
    assert card.data.base_model == "owner/model" and card.data.tags == ["caseharden"]
    for part in ("patcher(loops=24)", "seed 5", "Caseharden 0.", "a" * 64, "b" * 64, "torch: '9.9'", NONE_YET):
        assert part in card.text, part
    (row,) = [line for line in card.text.splitlines() if line.startswith("| harm")]
    assert row.split("|")[2:4] == [" 0.875 [0.00, 1.00] ", " 0.125 [0.00, 1.00] "]
    assert "- harm: 12 scored answers, 3 without a score, by verifier, version 7" in card.text
    block = card.text.split("all its fields:\n\n")[1].split("\n\n## ")[0]
    assert yaml.safe_load(block) == FIELDS and "\n```" not in card.text


def test_what_was_not_measured_is_not_taken_from_the_other_model(tmp_path):
    text = written(tmp_path, curve(UNDEFENDED, 0.875), base="local").read_text(encoding="utf-8")
    assert "| harm | 0.875 [0.00, 1.00] | not measured |" in text
    assert "base_model" not in text, "only a hub id leads somewhere"


def test_an_audit_has_one_place_and_leaves_the_rest_alone(tmp_path):
    path = written(tmp_path, curve(UNDEFENDED, 0.9), curve("patcher", 0.1))
    path.write_text(path.read_text(encoding="utf-8") + "\nMy own words, naïve →\n", encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    assert has_place(tmp_path)
    put_audit(tmp_path, "first")
    put_audit(tmp_path, "## second\n")
    assert path.read_text(encoding="utf-8") == before.replace(NONE_YET, "## second")
    again = written(tmp_path, curve(UNDEFENDED, 0.9), curve("patcher", 0.1)).read_text(encoding="utf-8")
    assert "## second" in again and NONE_YET not in again


@pytest.mark.parametrize("text", [None, b"# mine\n", b"\xff\xfe", b"<!-- caseharden audit: begin -->"])
def test_a_card_without_that_place_is_nobodys_to_change(tmp_path, text):
    if text is not None:
        (tmp_path / "README.md").write_bytes(text)
    assert not has_place(tmp_path)
