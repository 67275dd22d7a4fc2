"""Watching simulated attacks tells whether they work, on the defender's own prompts."""

from dataclasses import replace

import pytest

from caseharden.attacks import SFT
from caseharden.bilevel.watch import Watch
from caseharden.defenses.patcher import Patcher
from caseharden.defenses.tar import TAR
from caseharden.errors import CasehardenError
from caseharden.measures import Probe
from caseharden.train.objectives import Imitate

WATCH = Watch(Probe("benign", role="defender", max_new_tokens=4), every=2)
REFUSE = Imitate(batch_size=8)
STRONG = SFT({"benign": 1.0}, lr=3e-2, batch_size=8)  # benign data: the model is too small for more
METHODS = {
    "patcher": Patcher((STRONG,), REFUSE, None, loops=4, attack_steps=80, defense_steps=1, lr=1e-3, watch=WATCH),
    "tar": TAR((STRONG,), REFUSE, REFUSE, max_steps=3, inner_steps=80, checkpoint_every=80, lr=1e-3, watch=WATCH),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_strong_attack_is_seen_to_succeed_and_a_weak_one_not(name, run_of):
    def success(lr: float) -> list[float | None]:
        method = replace(METHODS[name], adversaries=(replace(STRONG, lr=lr),))
        return [metrics.get("attack_success") for metrics in run_of("defender").drive(method)]

    strong, weak = success(3e-2), success(1e-6)
    watched = {"patcher": [2], "tar": [0, 2]}[name]
    assert max(strong[step] for step in watched) > 0.1
    assert max(weak[step] for step in watched) == 0.0
    assert strong[1] is None


def test_the_evaluators_prompts_are_not_shown_to_a_defense():
    with pytest.raises(CasehardenError, match="role: defender"):
        Watch(Probe())
