"""FineTune: one loop, of which fine-tuning methods are settings."""

from dataclasses import dataclass

import pytest

from caseharden.attacks import DPO, SFT
from caseharden.defenses import RandomMapping, SafetySFT
from caseharden.errors import CasehardenError
from caseharden.train.adapters import LoRA
from caseharden.train.finetune import FineTune
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
