"""What an interrupted attack leaves is found and removed, and what is at work or asked for is left alone."""

from dataclasses import replace

import pytest

from caseharden.attacks import SFT
from caseharden.store.leftovers import clean, leftovers
from caseharden.store.outlook import outlook
from caseharden.store.store import Store
from caseharden.study.run import run_study
from study_toys import contents, run, study


@pytest.fixture
def spec(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "tiny")
    return study(tmp_path / "tiny", defenses=(None,), attacks=(SFT(lr=1e-2, batch_size=4),))


def test_attacked_weights_of_an_interrupted_attack_are_removed_and_it_begins_anew(spec, tmp_path):
    store = Store(tmp_path / "store")
    events = run_study(spec, store, checkpoint_every=0.0)
    while not leftovers(store):
        next(events)
    (key,) = leftovers(store)
    half_written = store.folder / "weights" / f".unfinished-{key}-0" / "model.safetensors"
    half_written.parent.mkdir(parents=True)
    half_written.write_bytes(bytes(1000))
    strangers = store.folder / "checkpoints" / "notes.txt"
    strangers.write_text("no cell's")
    assert clean(store).busy == 1, "it is at work"
    assert outlook(store).checkpoints == 1 and half_written.exists()

    events.close()
    gone = clean(store)
    assert (gone.cells, gone.busy) == (1, 0) and gone.bytes > 1000
    assert (
        strangers.exists()
        and not leftovers(store)
        and not half_written.exists()
        and outlook(store).checkpoints == 0
    )

    run(spec, store)
    whole = Store(tmp_path / "whole")
    run(spec, whole)
    assert contents(store) == contents(whole)


def test_attacked_models_that_were_to_be_kept_stay(spec, tmp_path):
    store = Store(tmp_path / "store")
    run(replace(spec, keep_attacked=True), store)
    (checkpoint,) = (store.folder / "checkpoints").iterdir()
    assert not leftovers(store) and clean(store).cells == 0
    (mark,) = store.kept(checkpoint.stem).values()
    assert (store.folder / "weights" / mark / "model.safetensors").is_file() and checkpoint.is_file()
