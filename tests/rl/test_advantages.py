"""Advantages against brute force and textbook recursions."""

import pytest
import torch

from caseharden.rl import advantages

REWARDS_PG = torch.tensor([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0], [0.5, -1.0, 4.0, 0.25]])
NAN = float("nan")


def test_leave_one_out_is_each_reward_minus_the_mean_of_the_others():
    found = advantages.leave_one_out(REWARDS_PG)
    for p, group in enumerate(REWARDS_PG.tolist()):
        for g, reward in enumerate(group):
            others = group[:g] + group[g + 1 :]
            assert found[p, g] == pytest.approx(reward - sum(others) / len(others))


def test_group_normalized_has_mean_0_and_deviation_1_in_each_group_with_spread():
    found = advantages.group_normalized(REWARDS_PG)
    assert found.mean(-1) == pytest.approx(torch.zeros(3), abs=1e-6)
    assert found.std(-1)[[0, 2]] == pytest.approx(torch.ones(2), abs=1e-3)
    assert not found[1].any()


def test_group_centered_leaves_the_scale_alone():
    assert torch.equal(advantages.group_centered(10 * REWARDS_PG), 10 * advantages.group_centered(REWARDS_PG))
    assert advantages.group_normalized(10 * REWARDS_PG) == pytest.approx(
        advantages.group_normalized(REWARDS_PG), abs=1e-3
    )


def test_batch_advantages_compare_across_groups():
    found = advantages.batch_centered(REWARDS_PG)
    assert found.sum() == pytest.approx(0, abs=1e-5)
    assert found[1, 0] > 0  # a tied group, better than the batch
    white = advantages.group_centered_batch_whitened(REWARDS_PG)
    assert white.std() == pytest.approx(1, abs=1e-3)
    assert not white[1].any()


def test_only_what_is_better_than_its_group_is_learned_from():
    found = advantages.positive_group_normalized(REWARDS_PG)
    assert (found > 0).tolist() == [[False, False, False, True], [False] * 4, [False, False, True, False]]


@pytest.mark.parametrize("name", advantages.TABLE)
def test_what_was_not_scored_has_no_advantage_and_moves_nobody_elses(name):
    advantage = advantages.TABLE[name]
    with_hole = torch.tensor([[1.0, 0.0, NAN, 3.0], [2.0, NAN, 2.5, 0.0]])
    without = torch.tensor([[1.0, 0.0, 3.0], [2.0, 2.5, 0.0]])
    found, expected = advantage(with_hole), advantage(without)
    assert found[0, 2] == found[1, 1] == 0
    assert torch.allclose(found[0, [0, 1, 3]], expected[0])
    assert torch.allclose(found[1, [0, 2, 3]], expected[1])
    assert not advantage(torch.full((2, 3), NAN)).any()


@pytest.mark.parametrize("name", advantages.TABLE)
def test_rewards_that_are_all_the_same_teach_nothing(name):
    for reward in (0.0, 1.0, -0.3, 0.1, 0.7):
        for size in (4, 7, 8, 64):
            assert not advantages.TABLE[name](
                torch.full((3, size), reward)
            ).any()  # exactly, whatever rounding says
    assert not advantages.std(torch.full((3, 7), -0.3)).any()


def test_gae_is_the_textbook_sum_of_discounted_errors():
    torch.manual_seed(0)
    B, N, discount, decay = 3, 6, 0.9, 0.8
    rewards, values = torch.randn(B, N), torch.randn(B, N)
    lengths = [6, 3, 1]
    mask = torch.arange(N) >= N - torch.tensor(lengths)[:, None]
    found = advantages.gae(rewards, values, mask, discount, decay)
    for b, length in enumerate(lengths):
        own_rewards, own_values = rewards[b, -length:].tolist(), [*values[b, -length:].tolist(), 0.0]
        errors = [own_rewards[t] + discount * own_values[t + 1] - own_values[t] for t in range(length)]
        for t in range(length):
            expected = sum((discount * decay) ** (k - t) * errors[k] for k in range(t, length))
            assert found[b, N - length + t] == pytest.approx(expected, abs=1e-5)
        assert not found[b, : N - length].any()


def test_gae_without_discount_and_a_silent_critic_is_the_return():
    rewards = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    mask = torch.tensor([[False, True, True, True]])
    found = advantages.gae(rewards, torch.zeros(1, 4), mask, 1.0, 1.0)
    assert torch.equal(found, advantages.returns(rewards, mask).masked_fill(~mask, 0.0))
    assert found.tolist() == [[0.0, 3.0, 3.0, 2.0]]


def test_whitening_counts_only_masked_tokens():
    values = torch.tensor([[100.0, 1.0, 2.0], [100.0, 100.0, 3.0]])
    mask = torch.tensor([[False, True, True], [False, False, True]])
    found = advantages.whitened(values, mask)
    assert found[mask].mean() == pytest.approx(0, abs=1e-6)
    assert found[mask].std() == pytest.approx(1, abs=1e-3)
    assert not found[~mask].any()
