"""Run and the plain tuners. What every tuner must meet is in test_contract.py."""

import pytest
import torch

from caseharden.attacks import SFT, Chain
from caseharden.data.example import Example
from caseharden.defenses import SafetySFT
from caseharden.errors import CasehardenError, TrainingFailed
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Run
from factories import copy_of, weights_after


def test_schedulefree_hands_over_averaged_weights(run_of):
    run = run_of("attacker")
    for _ in run.drive(SFT(lr=1e-2, optimizer="schedulefree")):
        if run.step == 5:
            break
    training = run.lm.weights_hash()
    with run.evaluating() as lm:
        averaged = lm.weights_hash()
    assert run.lm.weights_hash() == training != averaged
    assert run.finish().weights_hash() == averaged


def test_lora_trains_adapters_only_and_merges(tiny_lm, run_of):
    run = run_of("attacker")
    steps = run.drive(SFT(lr=1e-2, lora=LoRA(r=2)))
    next(steps)
    trained = [name for name, p in run.lm.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    merged = run.finish()
    assert {k: v.shape for k, v in merged.model.state_dict().items()} == {
        k: v.shape for k, v in tiny_lm.model.state_dict().items()
    }
    assert merged.weights_hash() != tiny_lm.weights_hash()


def test_a_loss_that_is_not_finite_stops_the_run(tiny_lm, toy_domain):
    lm = copy_of(tiny_lm)
    with torch.no_grad():
        next(lm.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="not evidence of resistance"):
        next(Run(lm, toy_domain, "attacker", 0).drive(SFT()))


def test_weights_that_are_not_finite_are_neither_measured_nor_released(run_of):
    run = run_of("attacker")
    next(run.drive(SFT()))
    with torch.no_grad():
        next(run.lm.model.parameters()).fill_(float("inf"))
    with pytest.raises(TrainingFailed, match="not evidence of resistance"), run.evaluating():
        pass
    with pytest.raises(TrainingFailed, match="are not finite"):
        run.finish()


def test_a_gradient_that_is_not_finite_stops_the_run(run_of):
    class Exploding:
        def steps(self, run):
            yield {"loss": 1.0, "grad_norm": float("nan")}

    with pytest.raises(TrainingFailed, match="the grad_norm became nan at step 1"):
        next(run_of("attacker").drive(Exploding()))


def test_a_run_reads_only_its_own_role(run_of):
    seen = {
        role: {e.prompt for n in range(20) for e in run_of(role).stream({"harmful": 1.0}, 4)[n]}
        for role in ("defender", "attacker")
    }
    assert not seen["defender"] & seen["attacker"]


def test_n_examples_bounds_what_the_attacker_holds(run_of):
    stream = run_of("attacker").stream({"harmful": 1.0}, 4, n_examples=3)
    assert len({e.id for n in range(10) for e in stream[n]}) == 3


def test_prompts_without_room_for_an_answer_are_refused_before_the_first_step(run_of):
    run = run_of("attacker")
    harmful = run.pool("harmful")
    room = run.lm.encode([run.pool("benign")[0]]).ids_BT.shape[1] - 3  # enough for a benign prompt only
    with pytest.raises(CasehardenError, match=f"{len(harmful)} of the {len(harmful)} prompts of pool 'harmful'"):
        next(run.drive(SFT({"benign": 99.0, "harmful": 1.0}, max_length=room)))


def test_safety_sft_that_is_not_held_is_sft(run_of):
    mix = {"refusal": 1.0, "benign": 1.0}
    hashes = []
    for tuner in (
        SFT(mix, max_steps=3),
        SafetySFT(mix, lr=1e-4, max_steps=3),
        SafetySFT(mix, 1e-4, max_steps=3, kl=2.0),
    ):
        hashes.append(weights_after(run_of("defender"), tuner))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("held", [{"kl": 20.0}, {"hidden": 1.0}])
def test_it_is_held_near_the_released_model(held, tiny_lm, toy_domain, run_of):
    def drift(**held: float) -> float:
        run = run_of("defender")
        tuner = SafetySFT({"refusal": 1.0, "benign": 1.0}, lr=3e-3, max_steps=20, **held)
        for _ in run.drive(tuner):
            pass
        batch = tiny_lm.encode(list(toy_domain.pools("evaluator")["benign"]))
        with torch.no_grad():
            old, new = (lm.response(batch, states=True) for lm in (tiny_lm, run.lm))
        if "hidden" in held:
            return float((old[1] - new[1]).norm(dim=-1).mean())
        old_BRV, new_BRV = (found[0].whole().log_softmax(-1) for found in (old, new))
        return float((old_BRV.exp() * (old_BRV - new_BRV)).sum(-1).mean())

    assert drift(**held) < 0.7 * drift(**dict.fromkeys(held, 0.0))


@pytest.mark.parametrize("stages", [(), (SFT(), SFT())])
def test_a_chain_needs_ends(stages):
    with pytest.raises(CasehardenError, match="max_steps"):
        Chain(stages)


def test_unknown_optimizers_and_schedules_name_the_nearest(run_of):
    for field, value, near in (("optimizer", "adamv", "adamw"), ("schedule", "cosin", "cosine")):
        with pytest.raises(CasehardenError, match=near):
            next(run_of("attacker").drive(SFT(**{field: value})))
    with pytest.raises(CasehardenError, match="needs max_steps"):
        next(run_of("attacker").drive(SFT(schedule="linear")))


def test_prompts_without_completions_are_no_training_data(toy_domain, run_of):
    class Bare(type(toy_domain)):
        def pools(self, role):
            return {"harmful": [Example("h1", "a b ?")]}

    with pytest.raises(CasehardenError, match=r"no completion to learn \('h1' first\).*openers"):
        next(run_of("attacker", domain=Bare()).drive(SFT()))


def test_a_split_run_splits_again_within_its_part(run_of):
    """Whoever is held out from a part is held out from all parts of it: a simulated TAR sees no other half."""
    run = run_of("defender")
    held_out, theirs = run.split(2)
    thirds = [{e.id for e in part.pool("harmful")} for part in theirs.split(3)]
    assert sorted(id for third in thirds for id in third) == sorted(e.id for e in theirs.pool("harmful"))
    assert all(thirds) and not set.union(*thirds) & {e.id for e in held_out.pool("harmful")}
