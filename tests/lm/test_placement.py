"""Two processes with a half of each parameter, and other examples each, come to what one comes to."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from caseharden.attacks import DPO, GRPO, PPO, SFT, Abliterate, Noise, Prune, Reparameterize
from caseharden.bilevel.attackers import Asynchronous
from caseharden.bilevel.vector import AttackVector
from caseharden.defenses import TAR, Patcher, Reteach, SafetySFT
from caseharden.engines.native import Native
from caseharden.engines.transformers import Transformers
from caseharden.errors import CasehardenError
from caseharden.lm.facts import fingerprint
from caseharden.lm.lm import LM
from caseharden.lm.placement import ALONE, Sharded, here, placed_like, whole
from caseharden.rl.rewards import Judged
from caseharden.train.adapters import LoRA
from caseharden.train.objectives import Imitate, StayNear
from caseharden.train.tuner import Run
from sharding import in_processes
from toys import Opens, ToyDomain

SMALL = SFT(lr=1e-2, batch_size=3)
RL = {"reward": Judged(Opens()), "prompts": 4, "samples": 4, "max_new_tokens": 4, "lr": 1e-3, "max_steps": 4}
TUNERS = {
    "sft": ("attacker", replace(SMALL, max_steps=4)),
    "sft, tokens, in parts": ("attacker", replace(SMALL, batch_size=7, over="token", forward_batch=2, max_steps=3)),
    "sft, one example": ("attacker", replace(SMALL, batch_size=1, max_steps=2)),
    "sft, lora": ("attacker", replace(SMALL, lora=LoRA(r=2), max_steps=4)),
    "sft, sgd": (
        "attacker",
        replace(SMALL, optimizer="sgd", lr=1.0, max_steps=3),
    ),  # does not hide a gradient's scale
    "safety_sft": ("defender", SafetySFT(lr=1e-2, batch_size=5, max_steps=3, kl=0.5, hidden=0.5)),
    "tar": (
        "defender",
        TAR((SMALL,), Imitate(batch_size=3), StayNear({"benign": 1.0}, 3), max_steps=3, inner_steps=4),
    ),
    "patcher": (
        "defender",
        Patcher(
            (SMALL,), Imitate(batch_size=3), StayNear({"benign": 1.0}, 3), loops=3, attack_steps=3, defense_steps=2
        ),
    ),
    "patcher, control": (
        "defender",
        Patcher(
            (SMALL,), Imitate(batch_size=3), None, loops=2, attack_steps=2, defense_steps=2, random_vector=True
        ),
    ),
    "grpo": ("attacker", GRPO(**RL, updates=2, kl=0.1, entropy=0.1)),
    "ppo": ("attacker", PPO(**RL)),
    "dpo": ("attacker", DPO(lr=1e-2, batch_size=3, max_steps=3)),
    "reteach": (
        "defender",
        Reteach({"benign": 3.0, "refusal": 1.0}, lr=1e-2, batch_size=4, max_steps=2, max_new_tokens=4),
    ),
    "prune": ("attacker", Prune()),
    "noise": ("attacker", Noise()),
    "reparameterize": ("attacker", Reparameterize()),
    "abliterate": ("attacker", Abliterate(n_examples=6)),
}
REFUSED = {
    "lora with dropout": ("attacker", replace(SMALL, lora=LoRA(r=2, dropout=0.1), max_steps=1)),
    "adafactor": ("attacker", replace(SMALL, optimizer="adafactor", max_steps=1)),
    "asynchronous": ("defender", Patcher((SMALL,), Imitate(batch_size=3), None, attacker=Asynchronous())),
}


def loaded(folder: Path) -> LM:
    return LM.load(folder, placement=here(torch.device("cpu")))


def driven(folder: Path) -> dict[str, list]:
    """What each tuner reports of its steps, and the weights that it ends at."""
    found = {}
    for name, (role, tuner) in TUNERS.items():
        run = Run(loaded(folder), ToyDomain(), role, 0)
        metrics = [*run.drive(tuner)]
        found[name] = [metrics, [whole(p).detach().clone() for p in run.finish().model.parameters()]]
    return found


class Odd(Exception):
    """An error that cannot be read again where it was sent."""

    def __init__(self, one: str, other: str):
        super().__init__(f"at {one}, {other}")


def _fails() -> None:
    raise Odd("a", "b")


def in_each(folder: Path, out: Path) -> None:
    lm = loaded(folder)
    placement = lm.placement
    assert isinstance(placement, Sharded)
    place = out / f"{placement.rank}"
    found = {
        "driven": driven(folder),
        "hash": lm.weights_hash(),
        "local": [p.to_local().numel() for p in lm.model.parameters()],
    }
    lm.frozen_copy().save(out / "saved")
    found["reference"] = lm.frozen_copy().weights_hash()
    vector = AttackVector([p.detach() for p in lm.model.parameters()]).random_like(7).vector
    found["random"] = [whole(v) for v in vector]
    found["mine"] = [*placement.mine("abc")]
    found["portions"] = [placement.portion(5), placement.portion(5, 2), placement.portion(1)]
    found["once"] = placement.once(lambda: placement.rank), placement.agree(placement.rank)
    for work, said in ((_fails, "Odd: at a, b"), (lambda: lambda: 0, "pickle")):
        with pytest.raises(Exception, match=said):  # in both: neither waits for the other
            placement.once(work)

    # as rounding may have it, though less of it: each process finds other logits
    def differ(*call):
        call[-1].logits.mul_(1 + 9 * placement.rank)

    hook = lm.model.register_forward_hook(differ)
    for engine in (Native(), Transformers()):
        found[type(engine).__name__] = engine.write(lm, lm.encode_prompts(["a b", "c"]), 4, 6, 1.0, seed=1).tokens
    hook.remove()
    lm.model.model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(CasehardenError, match="dropout cannot be sharded"):
        Run(lm, ToyDomain(), "attacker", 0).trainable()
    for name, (role, tuner) in REFUSED.items():
        with pytest.raises(CasehardenError, match="sharded"):
            next(Run(loaded(folder), ToyDomain(), role, 0).drive(tuner))
        found[name] = "refused"
    with pytest.raises(CasehardenError, match="holds no model"):  # read by the first process, and said in both
        loaded(out)
    torch.save(found, place)


@pytest.fixture
def both(tiny_lm, tmp_path):
    """What two processes find, each for itself, and the folder of their model."""
    folder, out = tmp_path / "model", tmp_path / "out"
    out.mkdir()
    tiny_lm.save(folder)
    in_processes(2, in_each, folder, out)
    return [torch.load(out / f"{rank}", weights_only=True) for rank in range(2)], folder, out


def test_two_processes_come_to_what_one_comes_to(both):
    (found, other), folder, out = both
    alone = driven(folder)
    for name, (steps, weights) in alone.items():
        theirs, sharded = found["driven"][name]
        assert theirs == other["driven"][name][0], name  # whatever a process reports is of all
        for one, two in zip(steps, theirs, strict=True):
            assert one.keys() == two.keys()
            loss = pytest.approx(one["loss"], rel=1e-5, abs=1e-6 if name == "ppo" else 0)
            assert two["loss"] == loss, name
            if name not in ("grpo", "ppo"):  # a prompt goes through for each of its answers
                assert (one["tokens"], one["tokens_read"]) == (two["tokens"], two["tokens_read"]), name
        for a, b in zip(weights, sharded, strict=True):
            assert torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(a), name
    # A part of each, of a parameter whose rows they cannot share equally as well.
    lm = LM.load(folder)
    parameters = [*lm.model.parameters()]
    assert [a + b for a, b in zip(found["local"], other["local"], strict=True)] == [p.numel() for p in parameters]
    assert max(found["local"]) < max(p.numel() for p in parameters)
    # What is hashed, written, copied and drawn is that of one process, to the bit.
    assert found["hash"] == other["hash"] == found["reference"] == lm.weights_hash()
    lm.save(out / "saved by one")
    assert fingerprint(out / "saved") == fingerprint(out / "saved by one")
    drawn = AttackVector([p.detach() for p in parameters]).random_like(7).vector
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(found["random"], drawn, strict=True))
    # Each goes through as many parts; who is short of one goes through another's, and does not count it.
    assert (found["mine"], other["mine"]) == ([("a", 2), ("c", 2)], [("b", 2), ("c", 0)])
    assert found["portions"] == [3, 2, 1]
    assert found["once"] == other["once"] == (0, 0)
    assert found["Native"] == other["Native"] and found["Transformers"] == other["Transformers"]
    assert all(found[name] == "refused" for name in REFUSED)


def test_one_process_takes_all():
    assert here(torch.device("cpu")) is ALONE
    assert [*ALONE.mine("ab")] == [("a", 1), ("b", 1)]
    assert ALONE.portion(5) == 5 and ALONE.portion(5, 2) == 2
    tensor = torch.ones(2)
    assert placed_like(tensor, torch.zeros(2)) is whole(tensor) is tensor
    assert ALONE.once(partial(int, "3")) == 3
