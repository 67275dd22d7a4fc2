"""Families of attacks: how they are written, what is wrong with one, and what attacks they have."""

import pytest

from caseharden.attacks import SFT, Abliterate, Chain
from caseharden.errors import CasehardenError
from caseharden.search.space import Range, Space
from caseharden.train.adapters import LoRA

LR = {"log_uniform": [1e-5, 1e-1]}


def test_values_stand_where_ranges_stood():
    space = Space.parse(
        {"sft": {"lr": LR, "batch_size": {"whole": [8, 64]}, "clip": {"choice": [1.0, None]}, "n_examples": 100}}
    )
    assert [one.place for one in space.choices()] == ["sft.lr", "sft.batch_size", "sft.clip"]
    assert space.attack({"sft.lr": 0.01, "sft.batch_size": 16, "sft.clip": 1}) == SFT(
        lr=0.01, batch_size=16, clip=None, n_examples=100
    )


def test_ranges_may_stand_at_any_depth():
    adapters = {"r": {"whole": [2, 8]}, "dropout": {"uniform": [0, 0.5]}}
    space = Space.parse({"chain": {"stages": ["abliterate", {"sft": {"lr": LR, "lora": adapters}}]}})
    chosen = {"lr": 1e-3, "lora.r": 4, "lora.dropout": 0.25}
    values = {f"chain.stages[1].sft.{name}": value for name, value in chosen.items()}
    assert space.attack(values) == Chain((Abliterate(), SFT(lr=1e-3, lora=LoRA(r=4, dropout=0.25))))


def test_an_option_has_ranges_of_its_own_that_are_asked_for_where_it_is_chosen():
    space = Space.parse({"abliterate": {"direction": {"choice": [None, {"uniform": [0.4, 0.9]}]}}})
    asked = []

    def ask(option):
        def of(one):
            asked.append(one.place)
            return 0.5 if isinstance(one, Range) else option

        return of

    assert space.fill(ask(0)) == {"abliterate": {"direction": None}}
    assert asked == ["abliterate.direction"]
    assert space.fill(ask(1)) == {"abliterate": {"direction": 0.5}}
    assert asked[1:] == ["abliterate.direction", "abliterate.direction[1]"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"sft": {"lr": {"log_uniform": [1e-1, 1e-5]}}}, "attack.sft.lr.log_uniform: the lower end comes first"),
        ({"sft": {"lr": {"log_uniform": [0, 1]}}}, "attack.sft.lr.log_uniform: only numbers above 0"),
        ({"sft": {"lr": {"uniform": [1]}}}, "attack.sft.lr.uniform: expected two numbers"),
        ({"sft": {"batch_size": {"whole": [1, 2.5]}}}, "attack.sft.batch_size.whole: expected two whole numbers"),
        ({"sft": {"clip": {"choice": []}}}, "attack.sft.clip.choice: expected a list"),
        ({"sft": {"lr": {"uniform": [0.1, 1], "whole": [1, 2]}}}, "attack.sft.lr: uniform stands beside"),
        ({"sft": {"lrr": LR}}, "attack.sft.lrr: SFT has no field 'lrr'. Did you mean 'lr'"),
        ({"sft": {"optimizer": {"choice": ["adamw", "adamwx"]}}}, "attack.sft: there is no optimizer 'adamwx'"),
        ({"sft": {"lr": {"uniform": [0, 1]}}}, "attack.sft: lr=0.0 must be above 0"),
        ({"abliterate": {"position": {"uniform": [0.5, 1.5]}}}, "shares of the model's depth"),
        ({"sft": {"lr": 1e-3}}, "attack: there is nothing to search"),
        ({"sft": {"lr": [LR, 1e-3]}}, "attack: a list makes a grid of 2. Write {choice"),
        ({"shift": {"lr": LR}}, "attack: there is no attack or defense 'shift'. Did you mean 'sft'"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(written, said):
    with pytest.raises(CasehardenError) as error:
        Space.parse(written)
    assert said in str(error.value)


def test_a_range_knows_its_own_scale():
    decades = Range("x", "log_uniform", 1e-4, 1e-2)
    assert decades.share(1e-3) == pytest.approx(0.5)
    assert decades.at(1.5) == pytest.approx(1e-1)
    assert Range("x", "uniform", 1.0, 3.0).share(2.5) == 0.75
    assert decades.rounded(0.0012345) == 0.00123
    assert Range("x", "uniform", 0.12345, 1.0).rounded(0.123451) == 0.12345, "not below the lower end"
