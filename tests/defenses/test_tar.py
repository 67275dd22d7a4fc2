"""TAR reduces to what it must, and lowers what it asks for after an attack."""

import pytest

from caseharden.attacks import SFT
from caseharden.defenses import TAR, SafetySFT
from caseharden.errors import TrainingFailed
from caseharden.train.objectives import Confuse, Imitate, Prefer
from factories import weights_after

REFUSE = Imitate({"refusal": 1.0}, batch_size=4)
BENIGN = Imitate({"benign": 1.0}, batch_size=4)
ADVERSARY = SFT(lr=1e-2, batch_size=2)


def test_tar_without_tamper_weight_is_retain_only(run_of):
    same = {"max_steps": 4, "inner_steps": 4, "checkpoint_every": 2, "lr": 1e-3}
    plain = weights_after(run_of("defender"), SafetySFT({"refusal": 1.0}, lr=1e-3, batch_size=4, max_steps=4))
    for weight, expected in ((0.0, True), (1.0, False)):
        tar = TAR((ADVERSARY,), retain=REFUSE, tamper_weight=weight, **same)
        assert (weights_after(run_of("defender"), tar) == plain) == expected


def test_tar_checkpoint_weights_sum_to_one_and_grow():
    weights = TAR(inner_steps=64, checkpoint_every=4).checkpoint_weights()
    assert list(weights) == list(range(4, 65, 4))
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[64] / weights[60] == pytest.approx(2.718281828 ** (4 * 0.0625))


@pytest.mark.parametrize("tamper", [Prefer(batch_size=4), Confuse(batch_size=4), REFUSE])
def test_tar_lowers_each_tamper_loss_after_attack(tamper, run_of):
    def late(weight: float) -> float:
        tar = TAR((ADVERSARY,), tamper, BENIGN, weight, max_steps=12, inner_steps=4, checkpoint_every=2, lr=3e-3)
        return sum(metrics["tamper_4"] for metrics in list(run_of("defender").drive(tar))[-5:])

    assert late(4.0) < late(0.0)


def test_an_adversary_that_ends_before_the_last_checkpoint_is_an_error(run_of):
    short = TAR(adversaries=(SFT(max_steps=2),), inner_steps=4, checkpoint_every=2, max_steps=1)
    with pytest.raises(TrainingFailed, match="ended at step 2 of 4"):
        next(run_of("defender").drive(short))
