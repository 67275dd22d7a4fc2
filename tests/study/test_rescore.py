"""Another judge scores stored answers."""

import pytest
from sqlalchemy import select

from caseharden.errors import CasehardenError
from caseharden.judges.verifier import Verifier
from caseharden.measures import BestOf, Perplexity
from caseharden.store.results import results
from caseharden.store.tables import GenerationRow
from caseharden.study.rescore import rescore
from study_toys import run, study


def test_a_judge_that_failed_can_score_again(model, store, monkeypatch):
    def lost(self, answers):
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(Verifier, "score", lost)
        run(study(model, defenses=(None,), attacks=()), store)
    readings = results(store).curves[0].points[0].readings
    assert (readings["harm"].n, readings["harm"].unscored) == (0, 12)
    assert rescore(store, "toy", "harm", Verifier()) == 1
    assert rescore(store, "toy", "harm", Verifier()) == 0
    with store.session() as session:
        scores = [g.score for g in session.scalars(select(GenerationRow).where(GenerationRow.measure == "harm"))]
    readings = results(store).curves[0].points[0].readings
    assert (readings["harm"].n, readings["harm"].value) == (12, sum(scores) / 12)


@pytest.mark.parametrize("likelihood", [BestOf(), Perplexity()])
def test_given_completions_are_neither_shown_nor_scored_again(model, store, likelihood):
    run(study(model, defenses=(None,), attacks=(), measures={"likely": likelihood}), store)
    found = results(store)
    assert found.curves[0].points[0].readings["likely"].n > 0
    assert {sample.measure for sample in found.samples} == {"harm", "utility"}
    with pytest.raises(CasehardenError, match=r"'likely' has no judge .* Measures that have are harm, utility\."):
        rescore(store, "toy", "likely", Verifier())
