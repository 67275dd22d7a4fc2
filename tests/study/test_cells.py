"""A cell is done only where its driver's store, models and code are."""

import pickle
from dataclasses import replace
from functools import partial

import pytest

from caseharden.executors.executor import Came, Ended, Local
from caseharden.store.database import StoreError
from caseharden.study import cells
from caseharden.study.cells import execute
from caseharden.study.run import TRIES
from study_toys import outcomes, run, study


class Watched(Local):
    """Keeps each piece of work as it is sent elsewhere, and changes its job before it is done."""

    def __init__(self, **changes):
        super().__init__()
        self.changes, self.jobs_sent = changes, []

    def begin(self, number, work):
        (job,) = pickle.loads(pickle.dumps(work)).args
        self.jobs_sent.append(job)
        super().begin(number, partial(execute, replace(job, **self.changes)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folder": "elsewhere"}, "is not the folder of the study's store. Put the store into a folder that all"),
        ({"held": "process 1 on another"}, "is not the folder of the study's store. Put the store into a folder"),
        ({"source": "elsewhere"}, "Put models where all machines find them"),
        ({"source": "store"}, "would come to other results .* parent: "),
        ({"inputs": {}}, "would come to other results .* code: None → "),
    ],
)
def test_a_machine_that_lacks_what_the_driver_has_ends_the_study(model, store, tmp_path, changes, said):
    folders = {"elsewhere": tmp_path / "elsewhere", "store": store.folder}
    changes = {
        name: folders.get(value, value) if isinstance(value, str) else value for name, value in changes.items()
    }
    spec = study(model, defenses=(None,))
    with pytest.raises(StoreError, match=f"(?s){said}"):
        run(spec, store, executor=Watched(**changes, driver=(0, "another")))
    assert outcomes(run(spec, store)) == ["done"] * 2, "no cell is to blame"


def test_a_machine_that_has_it_all_does_the_same(model, store):
    assert outcomes(run(study(model), store, executor=Watched(driver=(0, "another")))) == ["done"] * 5


class Mortal(Local):
    """Its process dies after `steps` steps of a cell, and again, `more` later, whenever the cell is begun again."""

    def __init__(self, steps: int, more: int = 0):
        super().__init__()
        self.steps, self.more, self.left, self.deaths = steps, more, steps, 0

    def wait(self, seconds=None):
        happened = super().wait(seconds)
        if isinstance(happened, Came) and isinstance(happened.outcome, cells.Stepped):
            if not self.left:
                self.deaths += 1
                self.left = self.steps + self.more * self.deaths
                self.stop()
                return Ended(happened.number, "was lost")
            self.left -= 1
        return happened


def test_a_cell_is_begun_again_as_long_as_each_attempt_gets_further(model, store):
    """However often its process dies: it is a machine that fails, and not the cell."""
    spec = study(model, defenses=(None,), budgets=(0, 2, 4, 6, 8))
    mortal = Mortal(1)
    assert outcomes(run(spec, store, executor=mortal, checkpoint_every=0.0)) == ["done"] * 2
    assert mortal.deaths > TRIES


@pytest.mark.parametrize("more", [0, 1])
def test_a_cell_of_which_nothing_is_kept_is_given_up(model, store, more):
    """What is told of its last steps may be lost, and so seems to get further each time."""
    mortal = Mortal(0, more)
    spec = study(model, defenses=(None,), budgets=(0, 9))
    assert outcomes(run(spec, store, executor=mortal)) == ["done", "failed"]
    assert mortal.deaths == TRIES
