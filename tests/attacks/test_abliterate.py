"""Abliteration: directions, where they are projected out, and how much."""

from dataclasses import replace

import pytest
import torch

from architectures import CONFIGS, REFUSED, tiny_model
from caseharden.attacks.abliterate import Abliterate, ablated, last_states, refusal_directions
from caseharden.errors import CasehardenError
from caseharden.lm.structure import by_output, layers, mixes_tokens, writers
from factories import weights_after

NOTHING = Abliterate(attention_max=0.0, attention_min=0.0, mlp_max=0.0, mlp_min=0.0)
EVERYWHERE = Abliterate(direction=0.0)


def test_without_strength_nothing_changes(tiny_lm, run_of):
    assert weights_after(run_of("attacker"), NOTHING) == tiny_lm.weights_hash()
    assert weights_after(run_of("attacker"), replace(NOTHING, mlp_max=0.5)) != tiny_lm.weights_hash()


def test_at_strength_1_no_layer_writes_the_direction_any_more(monkeypatch, tiny_lm, run_of):
    monkeypatch.setattr("caseharden.attacks.abliterate.ablated", lambda w, v, s: ablated(w, v, s, norms=False))
    run = run_of("attacker")
    pools = [EVERYWHERE.prompts(run, name) for name in ("harmful", "benign")]
    v_D = refusal_directions(*(last_states(run.lm, prompts).mean(1) for prompts in pools))[0]
    list(run.drive(EVERYWHERE))
    written = {}
    for name, lm in (("before", tiny_lm), ("after", run.lm)):
        batch = lm.encode(run.pool("harmful")[:5])
        with torch.no_grad():
            states_LBTD = lm.response(batch, states=True)[1][:-1]  # the last is behind the final norm
        written[name] = ((states_LBTD[1:] - states_LBTD[:-1]) @ v_D).abs().max()
    assert written["after"] < 1e-5 < 1e-3 < written["before"]


def test_rows_keep_their_norms_and_lose_most_of_the_direction():
    generator = torch.Generator().manual_seed(0)
    matrix, v = torch.randn(16, 8, generator=generator), torch.randn(16, generator=generator)
    v = v / v.norm()
    found = ablated(matrix, v, 1.0)
    assert torch.allclose(found.norm(dim=-1), matrix.norm(dim=-1), atol=1e-5)
    assert (v @ found).norm() < 0.5 * (v @ matrix).norm()
    assert torch.allclose(ablated(matrix, v, 1.0, norms=False), matrix - torch.outer(v, v) @ matrix, atol=1e-6)
    assert torch.equal(ablated(torch.zeros(3, 2), v[:3], 1.0), torch.zeros(3, 2))


def test_directions_are_unit_and_orthogonal_to_the_benign_mean():
    generator = torch.Generator().manual_seed(0)
    harmful, benign = torch.randn(2, 3, 8, generator=generator)
    v_LD = refusal_directions(harmful, benign)
    assert torch.allclose(v_LD.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose((v_LD * benign).sum(-1), torch.zeros(3), atol=1e-5)
    assert torch.all((v_LD * (harmful - benign)).sum(-1) > 0)


def test_strength_falls_in_a_straight_line_and_ends():
    attack = Abliterate(None, 1.5, 0.5, mlp_max=1.0, mlp_min=0.0, position=0.6, distance=0.2)
    found = [attack.strength(depth, attention=True) for depth in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    assert found == pytest.approx([0, 0.5, 1.0, 1.5, 1.0, 0.5, 0])
    assert attack.strength(0.7, attention=False) == pytest.approx(0.5)
    assert replace(attack, distance=0.0).strength(0.6, attention=True) == 1.5
    assert replace(attack, distance=0.0).strength(0.61, attention=True) == 0


def test_states_do_not_depend_on_the_prompts_beside(tiny_lm):
    prompts = ["a", "b c d e f g ?", "h i"]
    together = last_states(tiny_lm, prompts)
    alone = torch.cat([last_states(tiny_lm, [prompt]) for prompt in sorted(prompts, key=len)], 1)
    assert together.shape == (2, 3, 16)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in REFUSED])
def test_every_part_has_its_writer_but_experts_in_one_tensor(name, word_tokenizer):
    model = tiny_model(name, word_tokenizer).model
    found = writers(model)
    assert {layer for layer, part, _ in found if mixes_tokens(part)} == {*range(len(layers(model)))}
    for _, part, linear in found:
        assert by_output(linear).shape[0] == 32
        called = [name.split(".")[-1] for name, module in part.named_modules() if module is linear]
        assert called[0] not in ("q_proj", "v_proj", "k_proj", "gate_proj", "up_proj", "in_proj", "qkv_proj", "fc1")


def test_fields_that_cannot_be_are_refused():
    for make in (
        lambda: Abliterate(direction=2.0),
        lambda: Abliterate(mlp_max=float("inf")),
        lambda: Abliterate(n_examples=0),
    ):
        with pytest.raises(CasehardenError):
            make()
