"""Streams: shares hold, epochs cover, batches are pure."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caseharden.data.example import Example
from caseharden.data.pools import fingerprint, pool
from caseharden.data.stream import Stream, derive_seed
from caseharden.errors import CasehardenError


def examples(name: str, n: int) -> list[Example]:
    return [Example(f"{name}{i}", f"prompt {i}") for i in range(n)]


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 5), min_size=1, max_size=4),
    batch_size=st.integers(1, 9),
    batches=st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_every_pool_keeps_its_share(weights, batch_size, batches, seed):
    names = [f"pool{i}" for i in range(len(weights))]
    stream = Stream({n: examples(n, 7) for n in names}, dict(zip(names, weights, strict=True)), batch_size, seed)
    drawn = [e for n in range(batches) for e in stream[n]]
    assert len(drawn) == batch_size * batches
    counts = Counter(e.id[: len("poolX")] for e in drawn)
    for name, weight in zip(names, weights, strict=True):
        assert abs(counts[name] - len(drawn) * weight / sum(weights)) < len(names)


def test_an_epoch_covers_the_pool_before_anything_repeats():
    stream = Stream({"a": examples("a", 12)}, {"a": 1.0}, 4, seed=3)
    epochs = [[e.id for n in range(start, start + 3) for e in stream[n]] for start in (0, 3)]
    assert set(epochs[0]) == set(epochs[1]) == {f"a{i}" for i in range(12)}
    assert epochs[0] != epochs[1]


def test_batches_do_not_depend_on_the_order_of_asking():
    pools = {"a": examples("a", 10), "b": examples("b", 3)}
    one, two = (Stream(pools, {"a": 3.0, "b": 1.0}, 5, seed=1) for _ in range(2))
    assert one[7] == two[7]
    assert [one[n] for n in range(9)] == [two[n] for n in reversed(range(9))][::-1]
    assert Stream(pools, {"a": 3.0, "b": 1.0}, 5, seed=2)[0] != one[0]


@pytest.mark.parametrize(("weights", "size"), [({}, 4), ({"a": 0.0}, 4), ({"a": 1.0}, 0)])
def test_bad_mixes_are_refused(weights, size):
    with pytest.raises(CasehardenError, match="data mix"):
        Stream({"a": examples("a", 3)}, weights, size, 0)


def test_seeds_for_different_purposes_differ():
    assert len({derive_seed(0, "a"), derive_seed(0, "b"), derive_seed(1, "a"), derive_seed(0, "a", 0)}) == 4


def test_an_unknown_pool_names_the_nearest(toy_domain):
    with pytest.raises(CasehardenError, match="harmful"):
        pool(toy_domain, "attacker", "harmfull")


def test_the_fingerprint_changes_with_any_example(toy_domain):
    class Changed:
        name = "changed"

        def pools(self, role):
            pools = dict(toy_domain.pools(role))
            if role == "evaluator":
                first, *rest = pools["harmful"]
                pools["harmful"] = [Example(first.id, first.prompt + " !"), *rest]
            return pools

    assert fingerprint(toy_domain) == fingerprint(toy_domain) != fingerprint(Changed())
