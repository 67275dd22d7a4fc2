"""A sequence classifier as judge, on a random model of a few parameters."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from caseharden.errors import CasehardenError
from caseharden.judges import Classifier
from caseharden.judges.judge import Answer


@pytest.fixture
def folder(tiny_lm, tmp_path):
    config = LlamaConfig(
        vocab_size=len(tiny_lm.tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tiny_lm.tokenizer.pad_token_id,
        id2label={0: "fine", 1: "harmful", 2: "other"},
        label2id={"fine": 0, "harmful": 1, "other": 2},
    )
    with tiny_lm.seeded(0):
        model = LlamaForSequenceClassification(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.5)
    model.save_pretrained(tmp_path)
    tiny_lm.tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


ANSWERS = [Answer("1", "a b ?", "b a ."), Answer("2", "c ?", "no"), Answer("3", "d e ?", "yes yes yes yes yes")]


def test_scores_are_probabilities_of_the_class_whatever_the_batch(folder):
    judge = Classifier(folder, "harmful", "{prompt} {output}")
    scores = judge.score(ANSWERS)
    assert scores == pytest.approx(
        Classifier(folder, "harmful", "{prompt} {output}", batch_size=1).score(ANSWERS), abs=1e-5
    )
    others = [Classifier(folder, label, "{prompt} {output}").score(ANSWERS) for label in ("fine", "other")]
    assert [sum(three) for three in zip(scores, *others, strict=True)] == pytest.approx([1, 1, 1])
    assert len({round(score, 3) for score in scores}) == 3
    assert judge.score([]) == []


def test_a_head_of_one_output_is_a_probability_of_its_own(folder, tiny_lm, tmp_path):
    config = LlamaConfig.from_pretrained(folder)
    config.id2label, config.label2id = {0: "harmful"}, {"harmful": 0}
    with tiny_lm.seeded(0):
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "one")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "one")
    scores = Classifier(str(tmp_path / "one"), "harmful", '{"text": "{prompt} {output}"}').score(ANSWERS)
    assert all(0.1 < score < 0.9 for score in scores)


def test_the_question_is_read_as_well(folder):
    asked = [Answer("1", "a ?", "b"), Answer("1", "z z z ?", "b")]
    for template in (None, "{prompt} {output}"):
        first, second = Classifier(folder, "harmful", template).score(asked)
        assert first != second
    first, second = Classifier(folder, "harmful", "{output}").score(asked)
    assert first == second


def test_versions_and_mistakes(folder, tmp_path):
    assert Classifier(folder, "harmful").version != Classifier(folder, "fine").version
    with pytest.raises(CasehardenError, match="Did you mean 'harmful'"):
        Classifier(folder, "harmfull").score(ANSWERS)
    with pytest.raises(CasehardenError, match="cannot load a classifier"):
        Classifier(str(tmp_path / "nowhere"), "harmful").score(ANSWERS)
