"""What runs now is told with its machine, and what is left takes as long as its kind has taken."""

import platform
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from caseharden.attacks import SFT
from caseharden.store.outlook import outlook
from caseharden.store.results import results
from caseharden.store.store import Store
from caseharden.store.tables import CellRow
from caseharden.study.run import run_study
from study_toys import run, study


@pytest.fixture
def spec(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "tiny")
    return study(tmp_path / "tiny", defenses=(None,), attacks=tuple(SFT(lr=lr) for lr in (1e-2, 2e-2, 3e-2)))


def test_what_runs_where_and_how_long_the_rest_takes(spec, tmp_path):
    store = Store(tmp_path / "store")
    events = run_study(spec, store)
    while (event := next(events)).position == 0 or event.share == 0:
        pass
    told = outlook(store)
    assert [(one.labels["fields"], one.machine) for one in told.running] == [({"lr": 1e-2}, platform.node())]
    assert told.left is None, "no attack has ended yet"
    while next(events).position < 2:
        pass
    with store.session() as session:
        for row in session.scalars(select(CellRow)):
            long = timedelta(seconds=100 if row.status == "done" else 30)
            row.started = (row.finished or row.started) - long
    told = outlook(store)
    assert told.running[0].seconds == pytest.approx(30, abs=5)
    assert told.left == pytest.approx(2 * 100 - 30, abs=5), "two attacks, one of them begun"
    events.close()
    run(spec, store)
    assert outlook(store) == replace(told, running=(), left=0.0)
    assert platform.node() not in str(results(store).provenance)
