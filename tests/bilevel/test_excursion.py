"""Excursions leave nothing behind, and gradients from them are those of first-order meta-learning."""

from dataclasses import replace

import pytest
import torch

from caseharden.attacks import SFT
from caseharden.bilevel.excursion import excursion, trajectory
from caseharden.lm.lm import LM
from caseharden.train.adapters import LoRA
from caseharden.train.gradients import Loss, global_norm, gradient
from caseharden.train.losses import cross_entropy

ADVERSARY = SFT(lr=1e-2, batch_size=2)


@pytest.mark.parametrize("keep", ["device", "cpu", "disk"])
@pytest.mark.parametrize(
    "adversary", [ADVERSARY, replace(ADVERSARY, lora=LoRA(r=2)), replace(ADVERSARY, optimizer="schedulefree")]
)
def test_an_excursion_returns_everything_bit_for_bit(adversary, keep, run_of):
    run = run_of("defender")
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


def test_an_excursion_that_fails_returns_as_well(run_of):
    run = run_of("defender")
    before = run.lm.weights_hash()
    with pytest.raises(RuntimeError, match="in flight"), excursion(run) as adversary_run:
        next(adversary_run.drive(ADVERSARY))
        raise RuntimeError("in flight")
    assert run.lm.weights_hash() == before


def test_the_adversary_and_the_held_out_batch_share_no_example(run_of):
    run = run_of("defender")
    held_out_run, theirs = run.split(2)
    with excursion(theirs) as adversary_run:
        adversary = {e.id for e in adversary_run.pool("harmful")}
    held_out = {e.id for e in held_out_run.pool("harmful")}
    assert adversary and held_out and not adversary & held_out
    assert adversary | held_out == {e.id for e in run.pool("harmful")}


def test_one_inner_step_agrees_with_the_second_order_meta_gradient(run_of):
    """∇_θ L(θ − η∇A(θ)) = (I − ηH)∇L(θ'): the straight-through gradient is off by O(η), no more."""
    run = run_of("defender")
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
                Loss(lambda _: [cross_entropy(*adversary_run.lm.response_logits(tamper_batch))]), 0, parameters
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
            Loss(lambda _: [cross_entropy(*run.lm.response_logits(self.batch))]), 0, list(run.lm.model.parameters())
        )
        with torch.no_grad():
            torch._foreach_add_(list(run.lm.model.parameters()), g, alpha=-self.eta)
        yield {"loss": loss}
