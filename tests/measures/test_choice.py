"""Multiple choice: the likeliest option by mean log-probability, computed apart from the measure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from caseharden.data.example import Example
from caseharden.defenses.controls import DeadWeights
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.judges.judge import judged
from caseharden.lm.logps import token_logps
from caseharden.measures.choice import MultipleChoice
from caseharden.measures.likelihood import mean_logps


@dataclass(frozen=True)
class Questions:
    """A domain with one pool, for the evaluator."""

    examples: tuple[Example, ...]
    name: str = "questions"

    def pools(self, role):
        return {"utility": self.examples}


QUESTIONS = tuple(
    Example(f"q{i}", prompt, answer=choices[0], choices=choices)
    for i, (prompt, choices) in enumerate(
        [
            ("a b ?", ("b a", "no no no", "c")),
            ("c ?", ("c c c c", "yes")),
            ("d e f g h ?", ("h", "g f", "e d e d e d")),
            ("i ?", ("no", "yes", "sorry i cannot", "i i")),
        ]
    )
)


def one_by_one(lm, example):
    """The mean log-probability of the completion, by a pass of its own without padding or cache."""
    ids, prompt = [
        lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (lm.template.prompt(example.prompt) + example.completion, lm.template.prompt(example.prompt))
    ]
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits
    return float(token_logps(logits[:, :-1], torch.tensor([ids[1:]]))[0, len(prompt) - 1 :].mean())


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_sharing_prompts_and_batches_changes_no_likelihood(tiny_lm, batch_size):
    options = [replace(q, completion=choice) for q in QUESTIONS for choice in q.choices]
    found = mean_logps(tiny_lm, options, max_length=64, batch_size=batch_size)
    assert found == pytest.approx([one_by_one(tiny_lm, option) for option in options], abs=1e-5)


def test_the_likeliest_option_is_chosen(tiny_lm):
    answers = MultipleChoice().answers(tiny_lm, Questions(QUESTIONS), 0, Native())
    for question, answer in zip(QUESTIONS, answers, strict=True):
        best = max(question.choices, key=lambda c, q=question: one_by_one(tiny_lm, replace(q, completion=c)))
        assert (answer.id, answer.output, answer.expected) == (question.id, best, question.answer)
    scores = [answer.score for answer in judged(MultipleChoice().judge, answers)]
    assert scores == [float(answer.output == answer.expected) for answer in answers]


def test_a_model_taught_the_answers_chooses_them(tiny_lm):
    optimizer = torch.optim.Adam(tiny_lm.model.parameters(), lr=1e-2)
    taught = [replace(q, completion=q.answer) for q in QUESTIONS]
    for _ in range(40):
        logits_BRV, targets_BR, mask_BR = tiny_lm.response_logits(tiny_lm.encode(taught))
        (-token_logps(logits_BRV, targets_BR)[mask_BR].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    answers = judged(MultipleChoice().judge, MultipleChoice().answers(tiny_lm, Questions(QUESTIONS), 0, Native()))
    assert [answer.score for answer in answers] == [1.0] * len(QUESTIONS)


@pytest.mark.parametrize("reverse", [False, True])
def test_dead_weights_score_chance_wherever_the_right_option_stands(reverse, run_of):
    run = run_of("defender")
    list(run.drive(DeadWeights()))
    options = ("b a", "no no no", "c", "yes yes yes yes yes yes yes")
    asked = tuple(
        Example(f"q{i}", "a " * i + "?", answer=options[0], choices=options[::-1] if reverse else options)
        for i in range(1, 17)
    )
    answers = judged(MultipleChoice().judge, MultipleChoice().answers(run.lm, Questions(asked), 0, Native()))
    assert [answer.score for answer in answers] == [1 / 4] * 16


def test_a_likelihood_that_is_no_number_leaves_its_question_unscored(tiny_lm, monkeypatch):
    known = [0.0, -1.0, -2.0, float("nan"), -1.0, -1.0, -1.0, -1.0, -1.0, -2.0, -3.0, -4.0]
    monkeypatch.setattr("caseharden.measures.choice.mean_logps", lambda *_, **__: known)
    answers = judged(MultipleChoice().judge, MultipleChoice().answers(tiny_lm, Questions(QUESTIONS), 0, Native()))
    first, unknown, third, fourth = (answer.score for answer in answers)
    assert (first, third, fourth) == (1.0, 1 / 3, 1.0)
    assert math.isnan(unknown)


def test_n_questions_are_the_same_every_time(tiny_lm, toy_domain):
    first, again = (MultipleChoice(n=5).answers(tiny_lm, toy_domain, seed, Native()) for seed in (0, 1))
    assert len(first) == 5
    assert first == again


def test_an_answer_that_is_no_choice_is_refused(tiny_lm):
    wrong = replace(QUESTIONS[0], answer="z")
    with pytest.raises(CasehardenError, match=r"'q0'.*needs choices"):
        MultipleChoice().answers(tiny_lm, Questions((wrong,)), 0, Native())


def test_a_prompt_too_long_is_an_error_that_names_it(tiny_lm):
    with pytest.raises(CasehardenError, match="q2"):
        MultipleChoice(max_length=8).answers(tiny_lm, Questions(QUESTIONS), 0, Native())
