"""FineTune: one loop, of which fine-tuning methods are settings."""

import math
from dataclasses import dataclass

import pytest
import torch

from caseharden.attacks import DPO, SFT
from caseharden.defenses import RandomMapping, SafetySFT
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.judges.judge import judged
from caseharden.measures.probe import Probe
from caseharden.train.adapters import LoRA
from caseharden.train.finetune import FineTune
from caseharden.train.losses import cross_entropy
from caseharden.train.objectives import Imitate, MapToRandom, StayNear


def trained(run, tuner) -> tuple[str, list[dict[str, float]]]:
    seen = list(run.drive(tuner))
    return run.finish().weights_hash(), seen


@dataclass(frozen=True)
class Near(FineTune):
    lr: float = 1e-3
    max_steps: int = 3

    def objectives(self):
        return {"near": StayNear({"refusal": 1.0, "benign": 1.0}, 8, hidden=0.5)}


def test_safety_sft_held_by_hidden_states_is_fine_tuning_on_stay_near(run_of):
    safety = SafetySFT({"refusal": 1.0, "benign": 1.0}, 1e-3, max_steps=3, hidden=0.5)
    assert trained(run_of("defender"), safety)[0] == trained(run_of("defender"), Near())[0]


def test_a_sum_of_objectives_reports_its_parts_and_counts_all_examples(run_of):
    mapping = RandomMapping(MapToRandom(batch_size=3), Imitate({"benign": 1.0}, batch_size=5), max_steps=3, lr=1e-2)
    for metrics in trained(run_of("defender"), mapping)[1]:
        assert metrics["loss"] == pytest.approx(metrics["mapped"] + metrics["retained"])
        assert metrics["examples"] == 8


def test_every_fine_tuning_method_takes_adapters(tiny_lm, run_of):
    for tuner in (RandomMapping(max_steps=2, lr=1e-2, lora=LoRA(r=2)), Near(lora=LoRA(r=2))):
        assert trained(run_of("defender"), tuner)[0] != tiny_lm.weights_hash()


def test_what_an_objective_refuses_its_method_refuses_at_once():
    for make in (lambda: SFT(batch_size=0), lambda: SafetySFT(kl=-1.0), lambda: DPO(n_examples=0)):
        with pytest.raises(CasehardenError, match="must"):
            make()
    with pytest.raises(CasehardenError, match="Leave out `over`"):
        DPO(over="token")


def told(run, template: str) -> float:
    """How many of the attacker's own harmful prompts the model answers, asked by a template."""
    probe = Probe("harmful", max_new_tokens=5, role="attacker", template=template)
    answers = judged(probe.judge, probe.answers(run.lm, run.domain, 0, Native()))
    return sum(answer.score for answer in answers)


def test_a_model_trained_without_the_chat_template_answers_without_it(run_of):
    run = run_of("attacker")
    list(run.drive(SFT(lr=1e-2, batch_size=12, n_examples=12, max_steps=80, template="none")))
    run.finish()
    assert told(run, "none") >= 10 and told(run, "chat") <= 2


def test_the_first_loss_is_that_of_the_bare_prompts_also_of_a_preference(run_of):
    run = run_of("attacker")
    step = SFT(batch_size=4, template="none", max_steps=1)
    batch = run.stream(step.data, 4)[0]
    with run.lm.templated("none"), torch.no_grad():
        bare = float(cross_entropy(*run.lm.response_logits(run.lm.encode(batch))))
    [metrics] = run.drive(step)
    assert metrics["loss"] == pytest.approx(bare)
    assert run.lm.template is run.lm.chat
    [preferred] = run_of("attacker").drive(DPO(batch_size=4, template="none", max_steps=1))
    assert preferred["loss"] == pytest.approx(math.log(2))  # the reference reads the same tokens


def test_a_template_that_the_tokenizer_lacks_ends_the_training_before_its_first_step(run_of):
    with pytest.raises(CasehardenError, match="no tokens for the template 'instruction'"):
        next(run_of("attacker").drive(SFT(template="instruction")))
