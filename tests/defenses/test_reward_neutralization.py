"""Reward Neutralization: answers come to open as is wanted, and leave an attacker's reward no variance."""

import pytest

from caseharden.defenses import RewardNeutralization
from caseharden.errors import CasehardenError
from caseharden.rl.rewards import Judged
from toys import Opens

SMALL = {"prompts": 4, "samples": 4, "max_new_tokens": 5}


def test_it_reports_the_attackers_variance_and_ends(run_of):
    run = run_of("defender", 1)
    tuner = RewardNeutralization(**SMALL, lr=3e-2, max_steps=40, brief=Judged(Opens()), attacker=Judged(Opens()))
    seen = [metrics["attacker_reward_variance"] for metrics in run.drive(tuner)]
    assert len(seen) == 40
    assert sum(seen[-8:]) < 0.5 * sum(seen[:8])  # all answers come to open as is wanted
    with pytest.raises(CasehardenError, match="needs max_steps"):
        RewardNeutralization(max_steps=None)
