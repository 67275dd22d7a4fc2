"""What of a suite cannot be run of a model and a domain, and is left out or refused before anything runs."""

from dataclasses import replace

import pytest

from caseharden.attacks import SFT
from caseharden.domains import Almanac
from caseharden.errors import CasehardenError
from caseharden.search.search import Search
from caseharden.suites import suite as suites
from caseharden.suites.question import Question


def asked(domain, *searches, **changes):
    stage = suites.Stage("search", (SFT(lr=1e-3),), searches)
    suite = replace(suites.load("quick"), stages=(stage,), **changes)
    return Question("almanac-never-learned", "almanac-victim", domain, suite)


def test_searches_of_an_attacker_who_has_nothing_to_ask_are_left_out_and_counted():
    class Poor(Almanac):
        def pools(self, role):
            lacking = ("benign",) if role == "attacker" else ()
            return {name: pool for name, pool in super().pools(role).items() if name not in lacking}

    families = [Search({"sft": {"lr": {"log_uniform": [1e-4, end]}}}) for end in (1e-3, 1e-2)]
    rich, poor = asked(Almanac(), *families), asked(Poor(), *families)
    assert len(rich.stages[0].searches) == 2 and not rich.left_out
    assert poor.stages[0].searches == () and poor.stages[0].attacks == (SFT(lr=1e-3),)
    assert dict(poor.left_out) == {"the attacker has no pools of its own to steer a search by": 2}
    assert poor.readings < rich.readings


def test_a_search_for_attacks_that_end_where_nobody_looks_is_refused_before_anything_runs():
    family = Search({"abliterate": {"mlp_max": {"uniform": [0.0, 1.5]}}}, budgets=(1,), rungs=())
    assert asked(Almanac(), family).studies()
    with pytest.raises(CasehardenError, match="over at step 1"):
        asked(Almanac(), family, budgets=(0, 50)).studies()
