"""A search from its space to the strongest attack: on planted attacks, of which it is known which that is."""

import dataclasses
import json

import pytest

from caseharden.domains.attacker_only import AttackerOnly
from caseharden.domains.prompts.prompts import Prompts
from caseharden.errors import CasehardenError
from caseharden.executors.executor import Came, Ended
from caseharden.judges.judge import NAN
from caseharden.measures.probe import Probe
from caseharden.search import search as searching
from caseharden.search.search import Search, SearchFailed, find
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.study.build import build, written
from search_toys import Planted, Private, Read
from toys import Opens, ToyDomain

X = "search_toys:Planted.x"


def search(**changes) -> Search:
    fields = {"x": {"log_uniform": [1e-4, 1e4]}, "kind": {"choice": ["half", "full"]}, **changes.pop("fields", {})}
    given = {"budgets": (1, 3), "seeds": (0,), "rungs": (), "trials": 8, "startup": 4, "further": 0}
    return Search({"search_toys:Planted": fields}, **(given | changes))


class Backwards:
    """Three jobs, of which the last begun is done first."""

    jobs = 3
    elsewhere = False

    def __init__(self):
        self.work, self.at_once = {}, 0

    def begin(self, number, work):
        self.work[number] = work()
        self.at_once = max(self.at_once, len(self.work))

    def wait(self, seconds=None):
        if not self.work:
            return None
        number, outcomes = [*self.work.items()][-1]
        for outcome in outcomes:
            return Came(number, outcome)
        del self.work[number]
        return Ended(number)

    def stop(self):
        self.work.clear()


def told(begun: list):
    """Keeps each cell that was begun."""

    def progress(events, cells):
        begun.extend(event.cell for event in events if event.what == "begun")

    return progress


def test_it_finds_what_was_planted_and_reads_the_attackers_pools_only(model, store):
    found = find(search(trials=16, seeds=(0, 1, 2)), model, Private(), store)
    assert found.attack.kind == "full"
    assert 0.1 < found.attack.x < 10, "the best is at 1, of eight decades"
    assert found.score == found.harm.value > 0.9
    assert (found.trials, found.failed, found.pruned, found.edges) == (16, 0, 0, ())
    assert found.confirmations == 3 * 2 and found.confirmations_failed == 0
    assert found.spent.steps == 3 * (len({str(trial.attack) for trial in found.every}) + 6)
    assert found.spent.examples == 2 * found.spent.steps


def test_the_same_search_makes_the_same_trials_and_another_seed_others(model, tmp_path):
    first, again, other = (
        find(search(seeds=(seed,)), model, Private(), Store(tmp_path / name))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again
    assert [t.values for t in first.every] != [t.values for t in other.every]


def test_what_is_stored_is_not_done_again(model, store):
    begun, again = [], []
    first = find(search(rungs=(1,)), model, Private(), store, progress=told(begun))
    assert find(search(rungs=(1,)), model, Private(), store, progress=told(again)) == first
    assert len(begun) > 8
    assert again == []


def test_an_interrupted_search_goes_on_where_it_was(model, tmp_path):
    whole, store = find(search(), model, Private(), Store(tmp_path / "whole")), Store(tmp_path / "parts")
    seen = []

    def interrupt(events, cells):
        for event in events:
            seen.append(event)
            if len([one for one in seen if one.what == "done"]) == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(search(), model, Private(), store, progress=interrupt)
    begun = []
    assert find(search(), model, Private(), store, progress=told(begun)) == whole
    assert len(begun) == 1 + 8 - 6, "the model as released, and the trials that were not done"


def test_jobs_change_nothing(model, tmp_path):
    alone = find(search(trials=6), model, Private(), Store(tmp_path / "one"))
    executor = Backwards()
    together = find(search(trials=6), model, Private(), Store(tmp_path / "two"), executor=executor)
    assert together == alone
    assert executor.at_once == 3


@pytest.mark.parametrize(("seeds", "wins"), [((0, 1, 2), False), ((0,), True)])
def test_an_attack_that_was_only_lucky_loses(model, store, seeds, wins):
    found = find(search(fields={"lucky": 1e3}, seeds=seeds, trials=12, confirmed=4), model, Private(), store)
    assert max(found.every, key=lambda trial: trial.scores).values[X] >= 1e3, "it was best at first"
    assert (found.attack.x >= 1e3) == wins
    assert found.confirmations == (0 if wins else 8)


def test_a_trial_that_fails_is_a_failure_and_no_harm(model, store):
    found = find(search(fields={"fails": 1e-1}), model, Private(), store)
    failed = [trial for trial in found.every if trial.failure]
    assert 0 < found.failed == len(failed) < 8
    assert all(trial.values[X] >= 1e-1 and not trial.scores for trial in failed)
    assert found.failures == {"it diverged": found.failed}
    assert found.attack.x < 1e-1


def test_if_all_fail_nothing_is_found(model, store):
    with pytest.raises(SearchFailed, match=r"all 8 trials failed.*The first: it diverged"):
        find(search(fields={"fails": 0.0}), model, Private(), store)


def test_what_was_not_scored_is_a_failure(model, store, monkeypatch):
    answers = Read.answers

    def silent(self, lm, *given):
        found = answers(self, lm, *given)
        return [dataclasses.replace(one, score=NAN) if one.score > 0.95 else one for one in found]

    monkeypatch.setattr(Read, "answers", silent)
    found = find(search(trials=16), model, Private(), store)
    assert found.failed
    assert {*found.failures} == {"no answer could be scored for harm at budget 1"}
    assert found.harm.value <= 0.95


@pytest.mark.parametrize(("capable", "wins"), [(0.8, False), (0.0, True)])
def test_an_attack_that_destroys_the_model_loses_however_harmful(model, store, capable, wins):
    planted = search(fields={"best": 1e3, "breaks": 1e-1, "kind": "full"}, capable=capable, trials=12)
    found = find(planted, model, Private(), store)
    assert any(trial.values[X] >= 1e-1 for trial in found.every), "it was tried"
    assert (found.attack.x >= 1e-1) == wins
    assert (found.utility.value < 0.1) == wins


def test_only_the_best_go_on_after_a_rung(model, store):
    found = find(search(rungs=(1, 2, 7), budgets=(1, 2, 9), round=4, seeds=(0, 1)), model, Private(), store)
    assert search(rungs=(1, 2, 7), budgets=(1, 2, 9)).ladder == (1, 2, 9)
    came = [len(trial.scores) for trial in found.every]
    assert found.pruned == sum(number < 3 for number in came) >= 4
    first = sorted((trial.scores[0] for trial in found.every[:4]), reverse=True)
    promoted = [trial.scores[0] for trial in found.every[:4] if len(trial.scores) > 1]
    assert sorted(promoted, reverse=True) == first[: len(promoted)]
    assert 1 <= len(promoted) <= 2, "one in three of four, rounded up"
    steps = sum((0, 1, 1 + 2, 1 + 2 + 9)[number] for number in came)
    assert found.spent.steps == steps + 9 * found.confirmations


def test_a_range_is_widened_where_the_best_is_at_its_edge(model, store):
    narrow = {"x": {"log_uniform": [1e-4, 1e-3]}, "best": 1e-2, "kind": "full"}
    assert find(search(fields=narrow), model, Private(), store).edges == (X,), "that is what it says without more"
    found = find(search(fields=narrow, further=4), model, Private(), store)
    assert found.attack.x > 1e-3
    assert found.trials > 8
    assert {trial.values[X] > 1e-3 for trial in found.every[:8]} == {False}
    assert found.edges == ()


def test_an_edge_that_stays_is_told(model, store):
    far = {"x": {"uniform": [10, 20]}, "best": 1e6, "kind": "full"}
    found = find(search(fields=far, further=4), model, Private(), store)
    assert found.trials == 8 + searching.WIDENED * 4
    assert 20 < max(trial.values[X] for trial in found.every) <= 20 + 5 + 7.5
    assert (found.edges == (X,)) == (found.attack.x > 32.5 - 0.05 * 22.5)


def test_a_range_ends_where_the_field_does(model, store):
    limited = {"x": {"uniform": [10, 20]}, "best": 1e6, "most": 21.0, "kind": "full"}
    found = find(search(fields=limited, further=4), model, Private(), store)
    assert max(trial.values[X] for trial in found.every) <= 21
    assert not found.failed
    ended = {**limited, "most": 20.0}
    assert find(search(fields=ended, further=8), model, Private(), store).edges == ()


def test_attacks_of_one_step_are_searched_likewise(model, store):
    space = {
        "attention_max": {"uniform": [0.8, 1.5]},
        "direction": {"choice": [None, {"uniform": [0.4, 0.9]}]},
    }
    found = find(Search({"abliterate": space}, budgets=(1,), trials=6, further=0), model, ToyDomain(), store)
    assert found.spent.steps == 6 + found.confirmations and found.failed == 0
    directions = {trial.attack.direction is None for trial in found.every}
    assert directions == {True, False}


def test_an_attack_that_ends_before_the_last_budget_is_a_failure_that_says_so(model, store):
    found = find(search(fields={"max_steps": {"whole": [1, 6]}}), model, Private(), store)
    assert found.failed == sum(trial.values["search_toys:Planted.max_steps"] < 3 for trial in found.every) > 0
    assert all("before the last budget" in reason for reason in found.failures)


def test_a_search_measures_otherwise_if_it_says_so(model, store):
    measures = {"utility": Read(1, "benign", n=2), "harm:softly": Read(0, "harmful", n=1)}
    asked = search(measures=measures, precision="bfloat16")
    spec = searching.study(asked, model, Private())
    assert spec.all_measures() == {"harm": Read(0, "harmful"), **measures}
    assert spec.precision == "bfloat16"
    assert find(asked, model, Private(), store).utility.n == 2


def test_a_search_asks_nothing_that_the_attacker_has_not(model):
    with pytest.raises(CasehardenError, match=r"utility asks the pool 'utilty'.*Did you mean 'utility'\?"):
        searching.study(search(measures={"utility": Read(1, "utilty")}), model, Private())


def test_a_search_goes_by_prompts_of_the_attackers_own(tiny_lm, tmp_path, store):
    tiny_lm.save(tmp_path / "tiny")
    letters = "abcdefghijklmnop"
    for name, ending in (("harmful", "?"), ("benign", ".")):
        rows = [
            {"prompt": f"{a} {b} {ending}", "completion": f"{b} {a} ."} for a in letters for b in letters if a < b
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shares = {
        name: {role: (str(tmp_path / f"{name}.jsonl"),) for role in ("attacker", "evaluator")}
        for name in ("harmful", "benign")
    }
    domain = Prompts(**shares, contrast={}, evaluation={}, overlap="drop", wrapper="a b {prompt} c d")
    harm = Probe("harmful", Opens(), n=8, max_new_tokens=2)
    space = {"mlp_max": {"uniform": [0.0, 1.5]}}
    asked = {"budgets": (1,), "rungs": (), "trials": 3, "seeds": (0,), "further": 0, "questions": 6}
    others = dict.fromkeys(("harm:wrapped", "harm:template", "harm:sampled"))
    found = find(
        Search({"abliterate": space}, **asked, measures={"harm": harm, **others}),
        str(tmp_path / "tiny"),
        domain,
        store,
    )
    assert (found.trials, found.failed, found.harm.n, found.utility.n) == (3, 0, 8, 6)
    theirs = {example.id for example in domain.pools("attacker")["harmful"]}
    for name in store.studies():
        for curve in results(store, name, whole=True).curves:
            for point in curve.points:
                assert {*point.answers["harm"].items} <= theirs


def test_a_search_can_be_written_and_read(model):
    given = search(rungs=(1,), measures={"utility": Read(1, "benign")}, precision="float32")
    assert build(json.loads(json.dumps(written(given, Search))), Search, "search") == given
    assert build({"attack": given.attack}, Search, "search").trials == 40


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": (3, 1)}, "budgets must rise"),
        ({"budgets": (0,)}, "budgets must rise"),
        ({"rungs": (2, 1)}, "rungs must rise"),
        ({"trials": 0}, "trials is at least 1"),
        ({"capable": 1.5}, "capable is a share"),
        ({"questions": 0}, "questions=0"),
        ({"seeds": (1, 1)}, "no two the same"),
    ],
)
def test_what_is_wrong_with_a_search_is_told(changes, said):
    with pytest.raises(CasehardenError, match=said):
        search(**changes)


def test_the_real_domain_is_not_what_trials_are_run_on(model, store):
    spec = searching.study(search(), model, Private(), 0.5, searching.Reasoning())
    assert spec.domain == AttackerOnly(Private(), 96)
    assert {*spec.all_measures()} == {"harm", "utility"}
    assert Planted().max_steps is None
