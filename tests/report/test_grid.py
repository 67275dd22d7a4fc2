"""Tables fit whatever is there to fit into."""

from __future__ import annotations

from caseharden.report.grid import folded


def test_a_sign_that_is_wider_than_the_terminal_has_a_line_of_its_own():
    assert folded("日本", 1) == ["日", "本"]
