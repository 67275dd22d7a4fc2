"""What people see, and what goes to standard output instead."""

import io
import json
import sys

import pytest
from rich.console import Console

from caseharden import cli
from caseharden.attacks import SFT
from caseharden.cli import show
from caseharden.study.plan import plan, short_name
from caseharden.study.run import Event
from study_toys import study

ODD = "[/red] [bold]x"


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command in a folder with brackets in its name; returns its exit status, what it printed and said."""
    (tmp_path / ODD).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / ODD)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caseharden", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def ran(command, tiny_lm, tmp_path):
    """A study of which every name has brackets, run; the folder of its store."""
    tiny_lm.save(tmp_path / ODD / ODD)
    spec = {
        "name": ODD.replace("/", "|"),
        "domain": "toys:ToyDomain",
        "models": [ODD],
        "attacks": ["sft"],
        "budgets": [0, 1],
    }
    (tmp_path / ODD / "[a].yaml").write_text(json.dumps(spec))
    status, out, err = command("study", "run", "[a].yaml", "--store", f"out/{ODD}")
    assert status == 0, err
    assert f"stored in out/{ODD}; see it by" in out and f"{ODD} · undefended" in out
    return f"out/{ODD}"


def test_brackets_in_names_are_no_markup(command, ran, tmp_path):
    status, out, err = command("report", ran, "--json", f"{ODD}.json", "--html", "[b].html", "--figures", "[/c]")
    assert status == 0, err
    assert all(f"wrote {name}\n" in out for name in (f"{ODD}.json", "[b].html", "[/c]")) and ODD in out
    assert json.loads((tmp_path / ODD / f"{ODD}.json").read_text())["curves"][0]["model"] == ODD
    assert command("study", "status", ran)[0] == 0
    judged = command("rescore", ran, "--measure", "harm", "--judge", "verifier: {version: new}")
    assert f"in study {ODD.replace('/', '|')}." in judged[1]
    assert command("new-key", f"{ODD}.pem")[1].startswith(
        f"private key in {ODD}.pem, public key in {ODD}.pem.pub\n"
    )
    assert f"cannot get '{ODD}!'" in command("attack", f"{ODD}!", "sft", "--domain", "toys:ToyDomain")[2]


def test_models_of_any_name_are_listed(command, monkeypatch):
    monkeypatch.setattr("caseharden.lm.sources.fetched", lambda: {f"org/{ODD}": None})
    assert f"org/{ODD}" in command("list", "models")[1]


def test_a_file_on_standard_output_has_it_for_itself(command, ran):
    status, out, err = command("report", ran, "--json", "-", "--html", "page.html")
    assert status == 0 and json.loads(out)["study"] == ODD.replace("/", "|")
    assert "undefended" in err and "wrote page.html" in err
    status, out, err = command("report", ran, "--json", "-", "--html", "-")
    assert (status, out) == (2, "") and "both standard output" in err


def test_cells_that_run_at_once_have_a_bar_each(monkeypatch):
    """What is left of the study is what is left of all of them; one that is begun again keeps its bar."""
    cells = plan(study("m", defenses=(None,), attacks=(SFT(lr=1e-3), SFT(lr=1e-2), SFT(lr=1e-1))))
    seen = []

    def events():
        happened = [
            *((0, "stored", 1.0), (1, "begun", 0.0), (2, "begun", 0.0), (2, "step", 0.5), (1, "step", 0.25)),
            *((1, "begun", 0.0), (2, "done", 1.0), (3, "begun", 0.0), (1, "failed", 1.0), (3, "done", 1.0)),
        ]
        for position, what, share in happened:
            yield Event(position, cells[position], what, share, "why" if what == "failed" else "")
            (bars,) = shown
            seen.append([(task.description.rpartition(" · ")[2], task.completed) for task in bars.tasks])

    shown: list[show.Progress] = []

    class Watched(show.Progress):
        def __enter__(self):
            shown.append(self)
            return super().__enter__()

    monkeypatch.setattr(show, "Progress", Watched)
    console = Console(file=io.StringIO(), width=120)
    show.follow(events(), 4, console)
    first, second, third = (f"{short_name(cell.attack)} seed=0" for cell in cells[1:])
    assert seen[4] == [("study", 0.75), (first, 0.25), (second, 0.5)]
    assert seen[5] == [("study", 0.5), (first, 0.0), (second, 0.5)]
    assert seen[7:] == [
        [("study", 1.0), (first, 0.0), (third, 0.0)],
        [("study", 2.0), (third, 0.0)],
        [("study", 3.0)],
    ]
    lines = console.file.getvalue().splitlines()
    assert any(f"{second}: done in 0 s" in line for line in lines)
    assert any(f"{first}: failed: why" in line for line in lines)
    assert "1 of 4 were stored already." in lines[-1]


@pytest.mark.parametrize("name", ["-", "device"])
def test_a_certificate_needs_a_name_since_its_card_lies_beside_it(name, command, tmp_path):
    (tmp_path / ODD / "device").symlink_to("/dev/full")
    status, _, err = command("audit", "m", "--baseline", "b", "--certificate", name)
    assert status == 2 and "its card is written beside it" in err
