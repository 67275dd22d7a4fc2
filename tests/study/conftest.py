"""A tiny model in a folder, and a store."""

import pytest

from caseharden.store.store import Store


@pytest.fixture
def model(tiny_lm, tmp_path):
    folder = tmp_path / "tiny"
    tiny_lm.save(folder)
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", patience=0.2)
