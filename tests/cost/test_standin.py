from dataclasses import replace

import pytest

from caseharden.attacks import GRPO, SFT, Strip
from caseharden.bilevel.asynchronous import Asynchronous
from caseharden.bilevel.attackers import Sequential
from caseharden.cost.standin import Chance, replaced
from caseharden.cost.trace import traced
from caseharden.defenses import Patcher
from caseharden.engines.native import Native
from caseharden.judges import Verifier
from caseharden.lm import sources
from caseharden.lm.lm import LM
from caseharden.lm.memory import Memory
from caseharden.rl.rewards import Judged
from cost_toys import model_in, on_twin
from test_contract import CASES


@pytest.mark.parametrize("case", CASES)
def test_every_method_runs_on_a_twin(case, tiny_lm, toy_domain, tmp_path, monkeypatch):
    role, tuner = CASES[case]
    folder = model_in(tmp_path / "model", tiny_lm)
    monkeypatch.setattr(sources, "resolve", lambda name, weights=True: folder)
    run, recorder = on_twin(folder, toy_domain, role)
    trace = traced(run.drive(replaced(tuner)), recorder, run.lm.model, 3, 60)
    assert trace.moments or not trace.passes
    assert sum(trace.passes.values()) > 0 or not trace.tokens


def test_answers_are_examples_own_completions(tiny_lm, toy_domain, tmp_path):
    run, recorder = on_twin(model_in(tmp_path, tiny_lm), toy_domain)
    example = toy_domain.pools("attacker")["benign"][0]
    prompts = run.lm.encode_prompts([example.prompt])
    written = run.engine.write(run.lm, prompts, 2, 64, 1.0, 0).tokens
    assert [text.text for text in run.lm.read(written)] == [example.completion] * 2
    assert [len(row) for row in run.engine.write(run.lm, prompts, 1, 2, 0.0, 0).tokens] == [2]
    assert recorder.step.tokens["written"] == sum(map(len, written)) + 2


def test_writing_takes_the_passes_that_native_takes(tiny_lm, toy_domain, tmp_path):
    folder = model_in(tmp_path, tiny_lm)
    run, recorder = on_twin(folder, toy_domain)
    prompts = run.lm.encode_prompts([e.prompt for e in toy_domain.pools("attacker")["benign"][:6]])
    run.engine.write(run.lm, prompts, 1, 4, 0.0, 0)

    real = LM.load(folder)
    shapes = []
    real.model.register_forward_pre_hook(
        lambda _, args, given: shapes.append((*given["input_ids"].shape, given["attention_mask"].shape[1])),
        with_kwargs=True,
    )
    answers = iter(run.engine.answer(prompts[0], 4) * 100)
    real.ends = lambda: [-1]
    Native().write(real, prompts, 1, 4, 0.0, 0)
    assert next(answers) is not None
    said = [(one.rows, one.width, one.past + one.width) for _, one in recorder.step.passes.elements()]
    assert sorted(said) == sorted(shapes)


def test_judges_and_processes_are_stood_in_for_at_any_depth():
    grpo = replaced(GRPO(reward=Judged(Verifier())))
    assert grpo == GRPO(reward=Judged(Chance()))
    patcher = Patcher((replace(SFT(), lr=1e-3),), attacker=Asynchronous())
    assert replaced(patcher) == replace(patcher, attacker=Sequential())
    assert replaced(SFT()) == SFT()


def test_other_models_are_twins_too(tiny_lm, toy_domain, tmp_path):
    folder = model_in(tmp_path, tiny_lm)
    run, recorder = on_twin(folder, toy_domain)
    before = recorder.held["copies"]
    other = run.other(str(folder))
    assert other.meter is recorder
    assert recorder.held["copies"] - before == 4 * recorder.subject.parameters
    assert Strip(str(folder)).other_models == ("base",)


def test_with_checkpointing_the_head_is_counted_as_without(tiny_lm, toy_domain, tmp_path):
    """It runs apart from the pass, some tokens at a time."""
    folder, found = model_in(tmp_path, tiny_lm), []
    for memory in (Memory(), Memory(checkpointing=True)):
        run, recorder = on_twin(folder, toy_domain, memory=memory)
        passes = traced(run.drive(SFT(max_steps=2)), recorder, run.lm.model, 2, 60).passes
        found.append([(one, times) for (_, one), times in passes.items()])
    assert found[0] == found[1]
    assert all(one.heads > 0 for one, _ in found[1])
