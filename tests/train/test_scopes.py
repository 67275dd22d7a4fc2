"""Scopes: which parameters are trained, found in whatever architecture."""

import pytest
import torch
from torch import nn

from architectures import CONFIGS, REFUSED, tiny_model
from caseharden.attacks import SFT
from caseharden.errors import CasehardenError
from caseharden.lm.structure import layers
from caseharden.train.adapters import LoRA
from caseharden.train.scopes import MODULES, scoped
from factories import copy_of

NAMED = {
    "last_layers": ("layers.1.",),
    "first_layers": ("layers.0.",),
    "embeddings": ("embed_tokens",),
    "norms": ("norm",),
    "mlps": (".mlp.",),
    "attention": (".self_attn.",),
}


WITHOUT = {"mamba": ("mlps",), "mamba2": ("mlps",), "falcon_mamba": ("mlps",)}
"""Scopes that an architecture has nothing of: state spaces alone have no feed-forward part."""


def changed(before, after) -> set[str]:
    theirs = dict(after.named_parameters())
    return {name for name, p in before.named_parameters() if not torch.equal(p, theirs[name])}


@pytest.mark.parametrize("scope", MODULES)
def test_only_what_is_in_scope_is_trained_and_all_of_it(scope, tiny_lm, run_of):
    run = run_of("attacker")
    list(run.drive(SFT(lr=1e-2, batch_size=3, max_steps=3, scope=scope)))
    expected = {n for n, _ in tiny_lm.model.named_parameters() if any(part in n for part in NAMED[scope])}
    assert expected
    assert changed(tiny_lm.model, run.finish().model) == expected


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in REFUSED])
def test_every_architecture_has_every_scope_and_layers_are_its_parts(name, word_tokenizer):
    model = tiny_model(name, word_tokenizer).model
    ids = {scope: {id(p) for p in scoped(model, scope)} for scope in MODULES if scope not in WITHOUT.get(name, ())}
    for scope in WITHOUT.get(name, ()):
        with pytest.raises(CasehardenError, match="has no parameter"):
            scoped(model, scope)
    assert not ids.get("mlps", set()) & ids["attention"]
    assert not ids["first_layers"] & ids["last_layers"]
    reached = ids.get("mlps", set()) | ids["attention"] | ids["norms"]
    inside = {
        name
        for layer in layers(model)
        for name, p in layer.named_parameters()
        if p.ndim > 1 and id(p) not in reached
    }
    assert not inside


def test_a_scope_that_finds_nothing_is_an_error_before_the_first_step(run_of):
    run = run_of("attacker")
    for module in run.lm.model.modules():
        if "Norm" in type(module).__name__:
            module.weight = None
    with pytest.raises(CasehardenError, match="'norms' has no parameter"):
        next(run.drive(SFT(scope="norms")))


def test_adapters_have_no_scope():
    with pytest.raises(CasehardenError, match="no meaning with lora"):
        SFT(lora=LoRA(), scope="mlps")


def test_after_a_scope_everything_is_trained_again(tiny_lm, run_of):
    run = run_of("attacker")
    first = run.child("first")
    list(first.drive(SFT(lr=1e-2, batch_size=3, max_steps=1, scope="norms")))
    second = run.child("second")
    assert len(second.trainable()) == len(list(tiny_lm.model.parameters()))
    assert all(p.requires_grad for p in run.lm.model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adagrad", "adadelta", "adamw"])
def test_without_clipping_gradients_reach_the_optimizer_as_they_are(optimizer, tiny_lm, run_of):
    def after(clip: float | None) -> nn.Module:
        run = run_of("attacker")
        *_, metrics = run.drive(
            SFT(lr=0.5, optimizer=optimizer, clip=clip, batch_size=3, max_steps=2, scope="norms")
        )
        norms.append(metrics["grad_norm"])
        return run.finish().model

    norms: list[float] = []
    unclipped, loose, tight = after(None), after(1e9), after(1e-4)
    assert changed(copy_of(tiny_lm).model, unclipped)
    assert not changed(unclipped, loose)
    assert changed(unclipped, tight)
    assert norms[0] == norms[1] > 1e-4
