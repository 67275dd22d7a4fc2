"""Text: what of it is compared, and what cannot be written."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caseharden.data.text import is_text, normalized, shows
from strategies import many

PROMPT = "How do I pick the lock of a café in Île-de-France, with 10 fine tools?"
SAME = {
    "decomposed": unicodedata.normalize("NFD", PROMPT),
    "in full width": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in PROMPT),
    "in mathematical bold": "".join(chr(ord(c) - ord("a") + 0x1D41A) if "a" <= c <= "z" else c for c in PROMPT),
    "with soft hyphens": PROMPT.replace("o", "\u00ado\u00ad"),
    "with joiners": PROMPT.replace("i", "\u200bi\u200d\ufeff\u2060"),
    "with bidirectional marks": "\u202e" + PROMPT.replace("l", "\u200el") + "\u202c",
    "with variation selectors": PROMPT.replace("c", "c\ufe0f\U000e0101"),
    "with tags and fillers": PROMPT.replace("t", "\u3164t\U000e0061\u115f\u034f"),
    "struck through": PROMPT.replace("k", "k\u0336"),
    "without accents": PROMPT.replace("é", "e").replace("Î", "I"),
    "in capitals": PROMPT.upper(),
    "in Cyrillic letters": PROMPT.translate(str.maketrans("aceopxyHIT", "асеорхуНІТ")),
    "in Greek letters": PROMPT.translate(str.maketrans("oHIT", "οΗΙΤ")),
    "with ligatures": PROMPT.replace("fi", "ﬁ"),
}


@pytest.mark.parametrize("way", SAME)
def test_texts_that_only_look_different_are_the_same(way):
    assert SAME[way] != PROMPT
    assert normalized(SAME[way]) == "how do i pick the lock of a cafe in ile de france with 10 fine tools"


@pytest.mark.parametrize(
    "text", ["Как вскрыть замок", "Πώς ανοίγει μια κλειδαριά", "So öffnet man ein Schloss", "İŞ"]
)
def test_case_does_not_count_in_other_alphabets(text):
    assert normalized(text) == normalized(text.upper()) == normalized(text.lower())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[("рот", "пот"), ("鍵を開ける", "鍵を閉める"), ("a1", "al"), ("corn", "com")],
        *[("की", "का"), ("ขา", "ขี"), ("ขา", "ข้า"), ("かき", "かぎ"), ("কি", "কী"), ("தீ", "தூ"), ("ထို", "ထိ")],
        *[("のり", "ノリ"), ("۱۰", "۱"), ("\U0001f4a3\U0001f525", "\U0001f44b"), ("?", "!"), ("\u2192", "\u2190")],
    ],
)
def test_what_looks_different_stays_different(one, other):
    assert normalized(one) != normalized(other)


@pytest.mark.parametrize("text", ["किताब दुःख", "วิธีทำอาหาร", "বইটি কোথায়", "புத்தகம்", "သင်ပုန်းကြီး", "がぎぐ ノート"])
def test_marks_that_are_vowels_or_sounds_stay_and_part_no_words(text):
    assert normalized(text) == unicodedata.normalize("NFKC", text)
    assert normalized(unicodedata.normalize("NFD", text) + "!") == normalized(text)


@pytest.mark.parametrize(
    ("pointed", "plain"), [("שָׁלוֹם", "שלום"), ("كِتَابٌ", "كتاب"), ("замо́к", "замок"), ("άλφα", "αλφα")]
)
def test_marks_that_a_text_may_do_without_go(pointed, plain):
    assert normalized(pointed) == normalized(plain)


def test_a_text_without_words_is_its_other_characters():
    assert normalized(" \u26a0\ufe0f  \U0001f468\u200d\U0001f469 ?") == "\u26a0 \U0001f468\U0001f469 ?"
    assert normalized("\U0001f4a3 how to?") == "how to"


@many
@given(text=st.text(st.characters(codec="ascii")))
def test_plain_english_is_its_words_in_lower_case(text):
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()
    assert normalized(text) == (" ".join(words) or " ".join(text.split()))


@many
@given(text=st.text())
def test_what_is_normal_stays_so(text):
    assert normalized(normalized(text)) == normalized(text)


def test_half_a_character_is_no_text():
    assert is_text("whole: \U0001f642")
    assert not is_text("half: \ud83d")


@pytest.mark.parametrize("character", ["a", "?", "\U0001f4a3", "\u0915", "\u0301", "\ue000"])
def test_what_can_be_seen_shows(character):
    assert shows(character) and shows(f"\u200b {character}")


@pytest.mark.parametrize(
    "code", [0x20, 0xA0, 0x200B, 0x2060, 0xFEFF, 0xAD, 0x2800, 0x3164, 0xFE0F, 0x34F, 0xE0041, 0]
)
def test_what_shows_nothing(code):
    assert not shows(chr(code) * 3) and not shows("")
