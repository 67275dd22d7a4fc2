"""Near duplicates: found whatever the spelling, unlike ones left alone, and fast."""

import random
import time
import unicodedata

import pytest

from caseharden.data.overlaps import near_duplicates
from caseharden.domains.prompts.sources import load


def test_finds_near_duplicates_and_nothing_else():
    left = [
        "How do I bake sourdough bread at home?",
        "What is the tallest mountain in South America?",
        "how do i BAKE   sourdough bread at home",
    ]
    right = ["What's the weather like in Lima in July?", "How do I bake a sourdough bread at home?"]
    found = near_duplicates(left, right, 0.7)
    assert [(pair.left, pair.right) for pair in found] == [(0, 1), (2, 1)]
    assert found[0].similarity == found[1].similarity
    assert 0.7 <= found[0].similarity < 1
    assert near_duplicates(left, right, 0.99) == []
    assert near_duplicates([], right) == near_duplicates(left, []) == []


def test_threshold_is_the_exact_similarity():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(300)]
    texts = [" ".join(rng.sample(words, 10)) for _ in range(100)]
    swapped = [" ".join([*text.split()[:-1], "zzzzz"]) for text in texts]  # about nine tenths the same
    found = near_duplicates(texts, swapped, 0.8)
    assert {(pair.left, pair.right) for pair in found} == {(i, i) for i in range(100)}
    assert all(pair.similarity >= 0.8 for pair in found)


@pytest.mark.parametrize("text", ["", "?", "a", "ab cd"])
def test_short_and_empty_prompts(text):
    assert [pair.similarity for pair in near_duplicates([text], [text])] == [1.0]


def test_prompts_without_words_are_compared_by_their_characters():
    assert near_duplicates(["\U0001f4a3\U0001f525", "???"], ["\U0001f44b", "!!", "\U0001f525\U0001f4a3"]) == []
    assert near_duplicates(["\U0001f4a3\u200b \U0001f525"], ["\U0001f4a3 \U0001f525"])[0].similarity == 1.0


def test_however_it_is_written_a_prompt_is_the_same():
    prompt = "How do I pick the lock of a café?"
    ways = [unicodedata.normalize("NFD", prompt), prompt.replace("o", "\u00ado"), prompt.replace("c", "с")]
    assert [pair.similarity for pair in near_duplicates([prompt], ways)] == [1.0, 1.0, 1.0]


@pytest.mark.data
def test_the_harmful_sets_take_seconds(data_dir):
    train = [row.prompt for name in ("catqa", "advbench", "dangerousqa") for row in load(name)]
    held_out = [row.prompt for name in ("harmbench", "strongreject") for row in load(name)]
    start = time.perf_counter()
    assert near_duplicates(train, held_out, 0.8) == []
    assert time.perf_counter() - start < 10


@pytest.mark.data
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("lookalikes", ("xstest-safe", "xstest-unsafe")),
        ("conversations", ("self-instruct", "user-oriented", "mt-bench")),
        ("everyday", ("self-instruct", "user-oriented", "mt-bench")),
    ],
)
def test_our_own_prompts_are_not_those_that_they_stand_beside(data_dir, ours, theirs):
    """At half the usual threshold, counted in shingles: the kinds are theirs, the prompts are not."""
    ours = [row.prompt for row in load(ours)]
    theirs = [row.prompt for name in theirs for row in load(name)]
    alike = [(ours[pair.left], theirs[pair.right]) for pair in near_duplicates(ours, theirs, 0.5)]
    assert alike == []
