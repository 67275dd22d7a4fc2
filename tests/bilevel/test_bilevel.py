"""The bilevel core: excursions leave nothing behind, and methods reduce to what they must."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from caseharden.attacks import SFT
from caseharden.bilevel.excursion import excursion, trajectory
from caseharden.bilevel.vector import AttackVector
from caseharden.defenses import TAR, Patcher, SafetySFT
from caseharden.errors import TrainingFailed
from caseharden.lm.lm import LM
from caseharden.train.adapters import LoRA
from caseharden.train.gradients import cosine, global_norm, gradient
from caseharden.train.losses import cross_entropy
from caseharden.train.objectives import Confuse, Imitate, Prefer
from caseharden.train.optim import snapshot
from caseharden.train.tuner import Run

REFUSE = Imitate({"refusal": 1.0}, batch_size=4)
BENIGN = Imitate({"benign": 1.0}, batch_size=4)
ADVERSARY = SFT(lr=1e-2, batch_size=2)


def fresh(lm: LM, domain, seed: int = 0) -> Run:
    return Run(LM(copy.deepcopy(lm.model), lm.tokenizer, lm.name), domain, "defender", seed)


def tuned(lm: LM, domain, tuner, seed: int = 0) -> str:
    run = fresh(lm, domain, seed)
    for _ in run.drive(tuner):
        pass
    return run.finish().weights_hash()


@pytest.mark.parametrize("keep", ["device", "cpu"])
@pytest.mark.parametrize(
    "adversary", [ADVERSARY, replace(ADVERSARY, lora=LoRA(r=2)), replace(ADVERSARY, optimizer="schedulefree")]
)
def test_an_excursion_returns_everything_bit_for_bit(adversary, keep, tiny_lm, toy_domain):
    run = fresh(tiny_lm, toy_domain)
    parameters = run.trainable()
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, float(i))
    before = (
        run.lm.weights_hash(),
        [p.grad.clone() for p in parameters],
        [n for n, _ in run.lm.model.named_modules()],
    )
    with excursion(run, "there", keep=keep) as adversary_run:
        seen = [k for k, _ in trajectory(adversary_run, adversary, 4, [2, 4])]
        assert adversary_run.lm.weights_hash() != before[0]
    assert seen == [2, 4]
    assert run.lm.weights_hash() == before[0]
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, before[1], strict=True))
    assert all(p.requires_grad for p in parameters)
    assert [n for n, _ in run.lm.model.named_modules()] == before[2]


def test_an_excursion_that_fails_returns_as_well(tiny_lm, toy_domain):
    run = fresh(tiny_lm, toy_domain)
    before = run.lm.weights_hash()
    with pytest.raises(RuntimeError, match="in flight"), excursion(run) as adversary_run:
        next(adversary_run.drive(ADVERSARY))
        raise RuntimeError("in flight")
    assert run.lm.weights_hash() == before


def test_the_adversary_and_the_held_out_batch_share_no_example(tiny_lm, toy_domain):
    run = fresh(tiny_lm, toy_domain)
    held_out_run, theirs = run.split(2)
    with excursion(theirs) as adversary_run:
        adversary = {e.id for e in adversary_run.pool("harmful")}
    held_out = {e.id for e in held_out_run.pool("harmful")}
    assert adversary and held_out and not adversary & held_out
    assert adversary | held_out == {e.id for e in run.pool("harmful")}


def test_an_attack_vector_is_applied_and_put_back_exactly(tiny_lm, toy_domain):
    run = fresh(tiny_lm, toy_domain)
    parameters = run.trainable()
    start = snapshot(parameters)
    with excursion(run) as adversary_run:
        for _ in trajectory(adversary_run, ADVERSARY, 5, [5]):
            end = snapshot(parameters)
            vector = AttackVector.between(start, parameters)
    with vector.applied(parameters, snapshot(parameters)):
        assert all(torch.allclose(p, e, atol=1e-6) for p, e in zip(parameters, end, strict=True))
    assert all(torch.equal(p, s) for p, s in zip(parameters, start, strict=True))
    control = vector.random_like(seed=0)
    assert control.norm == pytest.approx(vector.norm, rel=1e-5)
    assert abs(cosine(control.vector, vector.vector)) < 0.1


def test_one_inner_step_agrees_with_the_second_order_meta_gradient(tiny_lm, toy_domain):
    """∇_θ L(θ − η∇A(θ)) = (I − ηH)∇L(θ'): the straight-through gradient is off by O(η), no more."""
    run = fresh(tiny_lm, toy_domain)
    parameters = run.trainable()
    run.lm.model.set_attn_implementation("eager")  # the fused kernels have no second derivative
    names = [name for name, _ in run.lm.model.named_parameters()]
    tamper, attack = ({p: 1.0} for p in ("refusal", "harmful"))
    tamper_batch, attack_batch = (run.lm.encode(run.stream(mix, 6)[0]) for mix in (tamper, attack))

    def loss(batch, weights):
        model = _Functional(run.lm.model, dict(zip(names, weights, strict=True)))
        return cross_entropy(*LM(model, run.lm.tokenizer, "functional").response_logits(batch))

    def second_order(eta: float) -> list[torch.Tensor]:
        inner = torch.autograd.grad(loss(attack_batch, parameters), parameters, create_graph=True)
        moved = [p - eta * g for p, g in zip(parameters, inner, strict=True)]
        return list(torch.autograd.grad(loss(tamper_batch, moved), parameters))

    def first_order(eta: float) -> list[torch.Tensor]:
        with excursion(run, "there") as adversary_run:
            next(adversary_run.drive(_Descent(attack_batch, eta)))
            return gradient(
                lambda _: cross_entropy(*adversary_run.lm.response_logits(tamper_batch)), 0, parameters
            )[1]

    def error(eta: float) -> float:
        exact, ours = second_order(eta), first_order(eta)
        gap = [a - b for a, b in zip(exact, ours, strict=True)]
        return float(global_norm(gap) / global_norm(exact))

    assert error(0.0) < 1e-5
    small, large = error(3e-3), error(3e-2)
    assert large / small == pytest.approx(10, rel=0.25)


class _Functional(torch.nn.Module):
    """A model with some other weights, differentiable in them."""

    def __init__(self, model, weights):
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, **inputs):
        return torch.func.functional_call(self.model, self.weights, kwargs=inputs, tie_weights=True)


class _Descent:
    """One step of plain gradient descent on a given batch."""

    def __init__(self, batch, eta):
        self.batch, self.eta = batch, eta

    def steps(self, run):
        loss, g = gradient(
            lambda _: cross_entropy(*run.lm.response_logits(self.batch)), 0, list(run.lm.model.parameters())
        )
        with torch.no_grad():
            torch._foreach_add_(list(run.lm.model.parameters()), g, alpha=-self.eta)
        yield {"loss": loss}


def test_patcher_without_attack_is_safety_sft(tiny_lm, toy_domain):
    patcher = Patcher((ADVERSARY,), REFUSE, benign=None, alpha=0.0, loops=1, defense_steps=6, lr=1e-3)
    plain = SafetySFT({"refusal": 1.0}, lr=1e-3, batch_size=4, max_steps=6)
    assert tuned(tiny_lm, toy_domain, patcher) == tuned(tiny_lm, toy_domain, plain)
    attacked = replace(patcher, alpha=0.5, loops=2, defense_steps=3, attack_steps=4)
    assert tuned(tiny_lm, toy_domain, attacked) != tuned(tiny_lm, toy_domain, plain)


def test_a_new_loop_of_patcher_forgets_the_optimizers_state_and_keeps_the_schedules_rate(tiny_lm, toy_domain):
    """AdamW's first step is ±lr whatever the gradient, so the first step of each loop is as long as the rate."""
    patcher = Patcher(
        (ADVERSARY,), REFUSE, benign=None, alpha=0.0, loops=3, defense_steps=2, schedule="cosine", lr=1e-3
    )
    run, moved = fresh(tiny_lm, toy_domain), []
    weights = run.lm.model.get_output_embeddings().weight
    before = weights.detach().clone()
    for _ in run.drive(patcher):
        moved.append(float((weights.detach() - before).abs().max()))
        before = weights.detach().clone()
    rates = [1e-3 * (1 + math.cos(math.pi * step / 6)) / 2 for step in (0, 2, 4)]
    assert moved[::2] == pytest.approx(rates, rel=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_patchers_schedule_spans_its_loops(schedule, tiny_lm, toy_domain):
    """With an optimizer that has no state to reset, loops leave no trace."""
    same = {"schedule": schedule, "optimizer": "sgd", "lr": 0.1}
    patcher = Patcher((ADVERSARY,), REFUSE, benign=None, alpha=0.0, loops=3, defense_steps=2, **same)
    plain = SafetySFT({"refusal": 1.0}, batch_size=4, max_steps=6, **same)
    assert tuned(tiny_lm, toy_domain, patcher) == tuned(tiny_lm, toy_domain, plain)


def test_tar_without_tamper_weight_is_retain_only(tiny_lm, toy_domain):
    tar = TAR(
        (ADVERSARY,), retain=REFUSE, tamper_weight=0.0, max_steps=4, inner_steps=4, checkpoint_every=2, lr=1e-3
    )
    plain = SafetySFT({"refusal": 1.0}, lr=1e-3, batch_size=4, max_steps=4)
    assert tuned(tiny_lm, toy_domain, tar) == tuned(tiny_lm, toy_domain, plain)
    assert tuned(tiny_lm, toy_domain, replace(tar, tamper_weight=1.0)) != tuned(tiny_lm, toy_domain, plain)


def test_tar_checkpoint_weights_sum_to_one_and_grow():
    weights = TAR(inner_steps=64, checkpoint_every=4).checkpoint_weights()
    assert list(weights) == list(range(4, 65, 4))
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[64] / weights[60] == pytest.approx(2.718281828 ** (4 * 0.0625))


@pytest.mark.parametrize("tamper", [Prefer(batch_size=4), Confuse(batch_size=4), REFUSE])
def test_tar_lowers_each_tamper_loss_after_attack(tamper, tiny_lm, toy_domain):
    def late(weight: float) -> float:
        tar = TAR((ADVERSARY,), tamper, BENIGN, weight, max_steps=12, inner_steps=4, checkpoint_every=2, lr=3e-3)
        return sum(metrics["tamper_4"] for metrics in list(fresh(tiny_lm, toy_domain).drive(tar))[-5:])

    assert late(4.0) < late(0.0)


def test_the_random_control_differs_from_the_attack(tiny_lm, toy_domain):
    patcher = Patcher((ADVERSARY,), REFUSE, BENIGN, loops=2, defense_steps=3, attack_steps=4, lr=1e-3)
    hashes = {tuned(tiny_lm, toy_domain, replace(patcher, random_vector=r)) for r in (False, True)}
    assert len(hashes) == 2


def test_a_lora_adversary_gives_patcher_a_vector(tiny_lm, toy_domain):
    adversary = replace(ADVERSARY, lora=LoRA(r=2))
    patcher = Patcher((adversary,), REFUSE, BENIGN, loops=2, defense_steps=2, attack_steps=4)
    norms = [metrics.get("vector_norm", 0) for metrics in fresh(tiny_lm, toy_domain).drive(patcher)]
    assert norms[1] == 0 < norms[2]


def test_an_adversary_that_ends_before_the_last_checkpoint_is_an_error(tiny_lm, toy_domain):
    short = TAR(adversaries=(SFT(max_steps=2),), inner_steps=4, checkpoint_every=2, max_steps=1)
    with pytest.raises(TrainingFailed, match="ended at step 2 of 4"):
        next(Run(copy.deepcopy(tiny_lm), toy_domain, "defender", 0).drive(short))
