"""A model as released, whose harm and utility are planted, and a store."""

import pytest

from caseharden.store.store import Store
from search_toys import RELEASED, plant


@pytest.fixture
def model(tiny_lm, tmp_path):
    plant(tiny_lm, *RELEASED)
    folder = tmp_path / "tiny"
    tiny_lm.save(folder)
    return str(folder)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", patience=0.2)
