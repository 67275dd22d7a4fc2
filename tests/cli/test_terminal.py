"""What commands print where the terminal is narrow, is none, or has another encoding than UTF-8."""

import io
import sys

import pytest

from caseharden import cli
from caseharden.cli import terminal


@pytest.fixture
def stream(monkeypatch):
    """Make standard output and errors a stream of this encoding; returns what was written so far."""

    def opened(encoding):
        raw = io.BytesIO()
        made = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", made)
        monkeypatch.setattr(sys, "stderr", made)
        return lambda: raw.getvalue().decode(encoding)

    return opened


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("text", ["0.02→0.95", "2.5× –", "φ … ∞", "naïve 中", "half \ud83d", "─━·"])
def test_any_sign_can_be_written_and_none_is_left_out(stream, encoding, text):
    written = stream(encoding)
    terminal.write_anything()
    terminal.console().print(text, highlight=False, markup=False)
    sys.stderr.write(text)
    assert len(written().strip()) >= 2 * len(text)
    assert "?" not in written()


def test_signs_keep_their_sense(stream):
    written = stream("ascii")
    terminal.write_anything()
    sys.stdout.write("0.02→0.95 naïve −1 ≥ 2× 中")
    assert written() == "0.02->0.95 naive -1 >= 2x \\u4e2d"


@pytest.mark.parametrize("words", [["--help"], ["list"], ["study", "status", "→"], ["audit", "--help"]])
def test_every_command_speaks_in_ascii(stream, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["caseharden", *words])
    written = stream("ascii")
    with pytest.raises(SystemExit):
        cli.main()
    assert len(written()) > 20


def test_what_is_no_terminal_has_full_width_unless_columns_say_otherwise(stream, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    written = stream("utf-8")
    terminal.console().print("long " * 60)
    assert written().count("\n") == 1
    monkeypatch.setenv("COLUMNS", "40")
    assert terminal.console().width == 40
