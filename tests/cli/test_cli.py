"""The command line, from its words to its exit status."""

import json
import re
import sys

import pytest
import torch

import caseharden
from caseharden import cli
from caseharden.errors import CasehardenError
from caseharden.lm.facts import fingerprint
from caseharden.lm.template import Reasoning
from caseharden.report.model_card import BEGIN, END, NONE_YET
from caseharden.study.build import build
from caseharden.study.spec import read_yaml

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command; returns its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["caseharden", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out + printed.err

    return call


@pytest.fixture
def spec(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "tiny")
    path = tmp_path / "toy.yaml"
    path.write_text("""
        name: toy
        domain: toys:ToyDomain
        models: [tiny]
        defenses: [none, safety_sft: {lr: 1e-2, max_steps: 2}]
        attacks: [sft: {lr: 1e-2}]
        budgets: [0, 2]
    """)
    return path


def test_a_study_from_spec_to_report(command, spec, tmp_path):
    status, said = command("study", "run", spec, "--threads", 1)
    assert status == 0
    assert "tiny · safety_sft(lr=0.01, max_steps=2) · sft(lr=0.01) seed=0: done" in said
    assert "5 of 5 were stored" in command("study", "run", spec)[1]
    status, said = command("study", "status", "out/toy")
    assert status == 0
    assert "done      5" in said
    status, said = command("report", "out/toy", "--json", "toy.json", "--html", "toy.html")
    assert status == 0
    assert "undefended" in said
    curves = json.loads((tmp_path / "toy.json").read_text())["curves"]
    assert [(curve["defense"], [p["budget"] for p in curve["points"]]) for curve in curves] == [
        ("undefended", [0, 2]),
        ("safety_sft", [0, 2]),
    ]
    assert "<html" in (tmp_path / "toy.html").read_text()
    status, said = command("rescore", "out/toy", "--measure", "harm", "--judge", "verifier: {version: new}")
    by = '4 new records of harm, scored by {"verifier":{"version":"new"}}, in study toy'
    assert (status, by in said) == (0, True)


def test_who_stops_a_study_is_told_how_to_go_on(command, spec, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("caseharden.study.run.run_study", stopped)
    status, said = command("study", "run", spec)
    assert status == 130
    assert "the same command goes on from there" in said


def test_a_failed_cell_shows_in_the_exit_status(command, spec):
    spec.write_text(
        spec.read_text().replace("sft: {lr: 1e-2}]", "toys:Short]").replace("budgets: [0, 2]", "budgets: [0, 3]")
    )
    status, said = command("study", "run", spec)
    assert status == 1
    assert "failed: the attack ended at step 2" in said
    assert "Raise its max_steps" in command("study", "status", "out/toy")[1]


def test_harden_makes_one_model_and_refuses_a_grid(command, spec, tmp_path):
    grid = "{safety_sft: {lr: [1e-2, 1e-3], max_steps: 2}}"
    status, said = command("harden", "tiny", grid, "--domain", "toys:ToyDomain", "--output", tmp_path / "hardened")
    assert status == 2 and "is a grid" in said
    assert not (tmp_path / "hardened").exists()


def test_harden_writes_a_model_that_can_be_attacked(command, spec, tmp_path):
    words = ("harden", "tiny", "{safety_sft: {lr: 1e-2, max_steps: 2}}", "--domain", "toys:ToyDomain")
    status, said = command(*words, "--output", "hard")
    assert status == 0, said
    assert (tmp_path / "hard" / "model.safetensors").is_file()
    card = (tmp_path / "hard" / "README.md").read_text()
    assert "`safety_sft(lr=0.01, max_steps=2)`, seed 0" in card and "| harm | 0." in card
    assert fingerprint(tmp_path / "tiny") in card and fingerprint(tmp_path / "hard") in card
    status, said = command(*words, "--output", "hard")
    assert (status, "exists already" in said) == (2, True)
    status, said = command("attack", "hard", "sft", "--domain", "toys:ToyDomain", "--budgets", "1,2")
    assert status == 0, said
    assert "harm" in said


FAMILY = """
attack: {abliterate: {mlp_max: {uniform: [0.5, 1.5]}, direction: {choice: [null, 0.5]}}}
budgets: [1]
rungs: []
trials: 3
seeds: [0]
further: 0
"""


def test_a_search_writes_an_attack_that_can_be_made(command, spec, tmp_path):
    (tmp_path / "family.yaml").write_text(FAMILY)
    (tmp_path / "toy-domain.yaml").write_text("toys:ToyDomain\n")
    status, said = command("search", "tiny", "family.yaml", "--domain", "toy-domain.yaml", "--output", "it.yaml")
    assert status == 0, said
    words = " ".join(said.split())
    assert "attack abliterate(" in words and "wrote it.yaml" in words
    assert "trials 3, of which 0 ended early and 0 failed" in words and "cost 3 steps, " in words
    assert {*read_yaml((tmp_path / "it.yaml").read_text())} == {"abliterate"}
    again = command("search", "tiny", "family.yaml", "--domain", "toys:ToyDomain", "--output", "-")[1]
    assert "done" not in again and "abliterate:" in again
    status, said = command("attack", "tiny", "it.yaml", "--domain", "toy-domain.yaml", "--budgets", 1)
    assert status == 0, said


def test_a_search_of_which_all_trials_fail_says_why(command, spec, tmp_path):
    family = "{attack: {sft: {lr: {uniform: [1e+30, 2e+30]}}}, budgets: [2], rungs: [], trials: 2, further: 0}"
    status, said = command("search", "tiny", family, "--domain", "toys:ToyDomain")
    assert status == 2 and "all 2 trials failed" in said and "Traceback" not in said


@pytest.mark.parametrize(("option", "thinking"), [([], None), (["--thinking"], True), (["--no-thinking"], False)])
@pytest.mark.parametrize(
    "words",
    ["harden tiny sft --output hard", "attack tiny sft", "audit tiny --baseline tiny", "search tiny family"],
)
def test_thinking_is_turned_on_or_off_or_left_to_the_template(command, monkeypatch, words, option, thinking):
    def asked(*models, reasoning, **rest):
        raise CasehardenError(str(build(reasoning, Reasoning, "reasoning")))

    behind = {"search": "find_attack"}
    monkeypatch.setattr(caseharden.api, behind.get(name := words.split()[0], name), asked)
    status, said = command(*words.split(), *option)
    assert status == 2 and f"thinking={thinking}," in said


@pytest.mark.parametrize(
    "words", ["harden tiny sft --output hard", "attack tiny sft", "audit tiny --baseline tiny"]
)
def test_precision_is_said(command, monkeypatch, words):
    def asked(*models, precision, **rest):
        raise CasehardenError(f"computed in {precision}")

    monkeypatch.setattr(caseharden.api, words.split()[0], asked)
    status, said = command(*words.split(), "--precision", "bfloat16")
    assert status == 2 and "computed in bfloat16" in said


@pytest.mark.parametrize(
    "words", ["harden tiny sft --output hard", "attack tiny sft", "audit tiny --baseline tiny"]
)
def test_how_memory_is_spared_is_said(command, monkeypatch, words):
    def asked(*models, memory, **rest):
        raise CasehardenError(f"spared by {[name for name, given in memory.items() if given]}")

    monkeypatch.setattr(caseharden.api, words.split()[0], asked)
    assert "spared by []" in command(*words.split())[1]
    assert "spared by ['checkpointing', 'offload']" in command(*words.split(), "--checkpointing", "--offload")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("study", "run", "absent.yaml"), "cannot read the study"),
        (("study", "run", "bad.yaml"), "attacks[0].sft.lrr: SFT has no field 'lrr'. Did you mean 'lr'?"),
        (("study", "status", "nowhere"), "holds no study"),
        (("report", "nowhere"), "holds no study"),
        (("attack", "no-such-model", "sft", "--domain", "toys:ToyDomain"), "there is no model 'no-such-model'"),
        (("attack", "tiny", "sft", "--domain", "toys:ToyDomain", "--budgets", "ten"), "--budgets: expected"),
        (("--data-dir", "nowhere", "list"), "there is no folder nowhere"),
        (("attack", "tiny", "absent.yaml"), "cannot read absent.yaml: [Errno 2]"),
        (("search", "tiny", "{attack: sft}"), "attack: there is nothing to search"),
        (("search", "tiny", "{attack: sft, trails: 3}"), "no field 'trails'. Did you mean 'trials'?"),
    ],
)
def test_mistakes_give_a_message_and_status_2(command, spec, tmp_path, words, said):
    (tmp_path / "bad.yaml").write_text(spec.read_text().replace("[sft: {lr:", "[sft: {lrr:"))
    status, printed = command(*words)
    assert status == 2
    assert said in printed
    assert "Traceback" not in printed


ATTACKER = "patcher: {loops: 1, attacker: {asynchronous: {device: 'cuda:99'}}}"


@pytest.mark.parametrize(
    ("line", "option", "said"),
    [
        pytest.param("device: cuda", (), "PyTorch cannot compute on 'cuda'", marks=NO_GPU),
        (f"defenses: [{ATTACKER}]", (), "PyTorch cannot compute on 'cuda:99'"),
        ("threads: -2", (), "threads is from 1 to"),
        ("threads: 1000000000000", (), "threads is from 1 to"),
        ("", ("--threads", -2), "threads is from 1 to"),
        ("", ("--threads", 0), "threads is from 1 to"),
        ("", ("--jobs", 0), "jobs is from 1 to"),
        ("", ("--checkpoint-every", "nan"), "checkpoints are every so many seconds"),
    ],
)
def test_what_the_machine_has_not_is_said_before_anything_runs(command, spec, line, option, said):
    lines = [one for one in spec.read_text().splitlines() if one.split(":")[0].strip() != line.split(":")[0]]
    spec.write_text("\n".join([*lines, f"        {line}"]))
    status, printed = command("study", "run", spec, *option)
    assert status == 2 and said in printed
    assert "done in" not in printed and "Traceback" not in printed
    assert command("study", "status", "out/toy")[0] == 2, "nothing was stored"


def test_list_knows_every_table(command):
    status, said = command("list")
    assert status == 0
    for word in ("attacks", "sft", "safety_sft", "verifier", "probe", "almanac-victim"):
        assert word in said
    assert "sft" not in command("list", "judges")[1]


def test_version_is_the_packages_own(command):
    assert command("--version") == (0, f"caseharden {caseharden.__version__}\n")


def test_an_audit_from_its_question_to_a_certificate_that_others_check(command, tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "base")
    with torch.no_grad():
        tiny_lm.model.lm_head.weight.add_(0.01)
    tiny_lm.save(tmp_path / "hardened")
    card = tmp_path / "hardened" / "README.md"
    card.write_text(f"# mine\n{BEGIN}\n{NONE_YET}\n{END}\n")
    (tmp_path / "small.yaml").write_text("""
        criteria: {horizon: 1}
        known_broken: {safety_sft: {max_steps: 1}}
        attacks: [sft: {lr: 1e-3}]
        budgets: [0, 1]
        seeds: [0, 1]
        utility_n: 8
        benign_runs: {lr: [3e-3], budgets: [0, 1], seeds: [0, 1], tasks: 1}
    """)
    words = ("audit", "hardened", "--baseline", "base", "--domain", "toys:Taught", "--suite", "small.yaml")
    files = ("--json", "a.json", "--markdown", "a.md", "--html", "a.html", "--figures", "figures")
    assert "only with --certificate" in command(*words, "--key", "key.pem")[1]
    assert command("new-key", "key.pem")[0] == 0
    signed = ("--certificate", "c.json", "--key", "key.pem")
    status, said = command(*words, *files, *signed, "--threads", 1)
    assert status == 0, said
    assert "resistance" in said and "c.json" in said
    found = json.loads((tmp_path / "a.json").read_text())
    names = ["resistance", "stability", "generalization", "trainability"]
    assert list(found["subject"]["conditions"]) == names
    assert "# Audit of hardened" in (tmp_path / "a.md").read_text()
    assert "<html" in (tmp_path / "a.html").read_text() and list((tmp_path / "figures").glob("*.svg"))
    block = (tmp_path / "c.json.md").read_text().strip()
    assert card.read_text() == f"# mine\n{BEGIN}\n{block}\n{END}\n" and "wrote hardened/README.md" in said
    check = ("--signer", "key.pem.pub", "--store", "out/audit")
    status, said = command("verify", "c.json", "hardened", *check)
    assert status == 0, said
    assert command("verify", "c.json", "base", *check)[0] == 1
    (tmp_path / "c.json").write_text((tmp_path / "c.json").read_text().replace("inconclusive", "holds", 1))
    assert command("verify", "c.json", "hardened")[0] == 1
    assert command("verify", "nowhere.json", "hardened")[0] == 2


def test_the_short_name_is_the_same_everywhere(command, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    defense = "{chain: {stages: [{safety_sft: {max_steps: 1}}, {safety_sft: {lr: 3e-4, max_steps: 2}}]}}"
    named = "safety_sft(max_steps=1)+safety_sft(lr=3e-4, max_steps=2)"
    toys = ("--domain", "toys:ToyDomain")
    status, said = command("harden", "tiny", defense, *toys, "--output", "hard", "--json", "hard.json")
    assert status == 0 and f"tiny · {named}\n" in said and "wrote hard.json" in said
    found = json.loads((tmp_path / "hard.json").read_text())
    assert {curve["names"]["defense"] for curve in found["curves"]} == {"undefended", named}
    attack = "{sft: {lr: [1e-4, 3e-4], lora: {}}}"
    status, said = command("attack", "hard", attack, *toys, "--budgets", "1", "--json", "attack.json")
    assert status == 0 and "hard · undefended · sft(lora) seed=0\n" in said
    found = json.loads((tmp_path / "attack.json").read_text())
    assert found["format"] == 1 and found["study"].startswith("attack-")
    assert [curve["names"]["attack"] for curve in found["curves"]] == ["sft(lora)", "sft(lr=3e-4, lora)"]
    status, said = command("report", "out/attack", "--html", "attack.html")
    assert "sft(lr=3e-4, lora)" in said + (tmp_path / "attack.html").read_text()


@pytest.mark.parametrize("columns", ["40", "80"])
def test_the_tables_of_harden_and_attack_are_read_at_any_width(command, spec, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    toys = ("--domain", "toys:ToyDomain")
    attack = "{sft: {lr: 1e-2, data: {harmful: 0.5, benign: 0.5}, batch_size: 4, n_examples: 9}}"
    status, said = command("attack", "tiny", attack, *toys, "--budgets", "1,2")
    table = said[said.index("steps") :].split("\n\n")[0]
    assert status == 0 and max(map(len, table.splitlines())) <= int(columns) and "…" not in table
    assert [line.split()[0] for line in table.splitlines() if re.match(r" +\d+ ", line)] == ["0", "1", "2"]
