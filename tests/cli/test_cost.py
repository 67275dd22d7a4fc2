import json

import pytest

from caseharden import cli
from caseharden.cli.cost import duration


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["caseharden", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_a_study_is_priced_on_a_device(tiny_lm, tmp_path, monkeypatch, capsys):
    tiny_lm.save(tmp_path / "tiny")
    spec, out = tmp_path / "study.yaml", tmp_path / "cost.json"
    spec.write_text(
        f"name: priced\ndomain: {{'toys:ToyDomain': {{}}}}\nmodels: [{tmp_path / 'tiny'}]\n"
        "attacks: [sft]\nbudgets: [0, 3]\n"
    )
    assert run(monkeypatch, "cost", spec, "--device", "l40s", "--price", "2", "--json", out) == 0
    said = capsys.readouterr().out
    assert "priced on 1 × l40s" in said and "price: 2 dollars" in said
    found = json.loads(out.read_text())
    assert found["fits"] and [cell["kind"] for cell in found["cells"]] == ["release", "attack"]
    assert found["dollars"] == pytest.approx(2 * found["hours"])
    assert run(monkeypatch, "cost", spec, "--device", "h1000") == 2
    assert "no device 'h1000'" in capsys.readouterr().err


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (0.5, 90, 7200, 172800)] == ["0.5 s", "1.5 min", "2 h", "2 d"]
