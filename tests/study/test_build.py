"""Spec files: what they stand for, the way back, and what is said about mistakes in them."""

import pytest
import yaml

from caseharden import attacks, defenses
from caseharden.attacks import SFT
from caseharden.errors import CasehardenError
from caseharden.lm.template import Reasoning
from caseharden.study import build
from caseharden.study.spec import load, parse, read_yaml
from caseharden.train.adapters import LoRA
from caseharden.train.tuner import Tuner

SPEC = """
name: example
domain: toys:ToyDomain
models: [tiny]
defenses: [none, safety_sft]
attacks:
  - sft: {lr: 1e-3}
budgets: [0, 5]
"""


def spec(text=SPEC):
    return parse(read_yaml(text))


def test_a_spec_becomes_frozen_objects_and_defaults_stay():
    found = spec()
    assert found.attacks == (SFT(lr=1e-3),)
    assert found.defenses == (None, defenses.TABLE["safety_sft"]())
    assert found.seeds == (0,)


def test_a_spec_survives_writing_in_short_and_in_full():
    found = spec(SPEC.replace("lr: 1e-3", "lr: [1e-3, 1e-2], lora: {r: 4}, data: {harmful: 1, benign: 2}"))
    assert parse(read_yaml(found.to_yaml())) == found
    assert parse(yaml.safe_load(yaml.safe_dump(found.to_dict()))) == found


@pytest.mark.parametrize("name", {**attacks.TABLE, **defenses.TABLE})
def test_every_tuner_of_the_tables_survives_writing(name):
    stages = [{"sft": {"max_steps": 3}}, "sft"]
    bounded = {"attack": "sft", "steps_between": [2, 4]}
    needs = {
        "bounded": bounded,
        "chain": {"stages": stages},
        "distill": {"teacher": "x"},
        "strip": {"base": "x"},
    }
    tuner = build.build({name: needs.get(name)}, Tuner, "here")
    full = build.written(tuner, Tuner)
    assert [full] == [name] or list(full) == [name]  # a tuner without fields is its name alone
    assert build.build(yaml.safe_load(yaml.safe_dump(full)), Tuner, "here") == tuner


@pytest.mark.parametrize(
    ("attack", "fields"),
    [
        ("{lr: [1e-3, 1e-2], batch_size: [2, 4]}", [(1e-3, 2), (1e-3, 4), (1e-2, 2), (1e-2, 4)]),
        ("{lr: 1e-3}", [(1e-3, 8)]),
    ],
)
def test_lists_make_grids(attack, fields):
    assert [(a.lr, a.batch_size) for a in spec(SPEC.replace("{lr: 1e-3}", attack)).attacks] == fields


def test_grids_reach_into_nested_objects_and_mappings():
    text = SPEC.replace("{lr: 1e-3}", "{lora: [null, {r: [2, 4]}], data: {harmful: 1, benign: [1, 2]}}")
    found = spec(text).attacks
    assert [a.lora for a in found] == [None, None, LoRA(2), LoRA(2), LoRA(4), LoRA(4)]
    assert [a.data["benign"] for a in found] == [1.0, 2.0] * 3


def test_where_a_list_belongs_a_list_is_one_value_and_lists_make_the_grid():
    one = "chain: {stages: [{sft: {max_steps: [1, 2]}}, sft]}"
    two = "chain: {stages: [[{sft: {max_steps: 1}}, sft], [sft]]}"
    assert [a.stages[0].max_steps for a in spec(SPEC.replace("sft: {lr: 1e-3}", one)).attacks] == [1, 2]
    assert [len(a.stages) for a in spec(SPEC.replace("sft: {lr: 1e-3}", two)).attacks] == [2, 1]


def test_a_pair_is_one_value_and_pairs_make_the_grid():
    pair, other = ["<plan>", "</plan>"], ["[T]", "[/T]"]
    assert build.build({"marks": pair}, Reasoning, "") == Reasoning(marks=("<plan>", "</plan>"))
    assert [one.marks for one in build.variants({"marks": [pair, other]}, Reasoning, "")] == [(*pair,), (*other,)]
    with pytest.raises(CasehardenError, match="marks: expected"):
        build.build({"marks": ["<plan>"]}, Reasoning, "")


def test_numbers_are_numbers_without_a_dot():
    assert read_yaml("[1e-3, 2E+4, 1e3x]") == [1e-3, 2e4, "1e3x"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sft: {", "stf: {", r"attacks\[0\]: there is no attack or defense 'stf'\. Did you mean 'sft'\?"),
        ("lr: 1e-3", "lrr: 1e-3", r"attacks\[0\]\.sft\.lrr: SFT has no field 'lrr'\. Did you mean 'lr'\?"),
        ("lr: 1e-3", "lr: fast", r"attacks\[0\]\.sft\.lr: expected float, not 'fast' \(str\)"),
        ("lr: 1e-3", "max_steps: 1.5", r"attacks\[0\]\.sft\.max_steps: expected int \| None, not 1.5"),
        ("lr: 1e-3", "over: word", r"attacks\[0\]\.sft\.over: expected .*'sequence'.*not 'word'"),
        ("lr: 1e-3", "lr: -1", r"must be above 0"),
        ("lr: 1e-3", "n_examples: 0", r"must be above 0"),
        ("lr: 1e-3", "optimizer: adamv", "no optimizer 'adamv'. Did you mean 'adam"),
        ("lr: 1e-3", "schedule: cosine", "needs max_steps"),
        ("lr: 1e-3", "lr: []", "an empty list leaves nothing"),
        ("[none, safety_sft]", "[sft]", "which never ends. Give it max_steps"),
        ("[none, safety_sft]", "[{tar: {inner_steps: 2}}]", "would never look"),
        ("[none, safety_sft]", "[{patcher: {attack_steps: 0}}]", "at least one adversary, loop, attack step"),
        ("lr: 1e-3", "lora: {rank: 3}", r"attacks\[0\]\.sft\.lora\.rank: LoRA has no field"),
        ("lr: 1e-3", "lora: 3", r"attacks\[0\]\.sft\.lora: expected fields"),
        ("sft: {lr: 1e-3}", "chain: {}", r"attacks\[0\]\.chain: Chain needs stages"),
        ("sft: {lr: 1e-3}", "{sft: {}, chain: {}}", r"attacks\[0\]: expected the name of one attack or defense"),
        ("sft: {lr: 1e-3}", "no.such:Thing", "cannot import 'no.such:Thing'"),
        ("sft: {lr: 1e-3}", "caseharden.train.adapters:LoRA", "is no attack or defense"),
        ("toys:ToyDomain", "almanak", "domain: there is no domain 'almanak'"),
        ("toys:ToyDomain", "[toys:ToyDomain, toys:ToyDomain]", "only attacks and defenses make grids"),
        ("models:", "modles:", "modles: StudySpec has no field 'modles'. Did you mean 'models'?"),
        ("name: example", "", "needs name"),
        ("name: example", "name: 5", "name: expected str, not 5"),
        ("name: example", "name: a\nname: b", "name is given twice"),
        ("models: [tiny]", "models: tiny", "models: expected"),
        ("[0, 5]", "[0, 5]\nmeasures: {harm: null}", "measures leaves out harm"),
        ("[0, 5]", "[0, 5]\nmeasures: {utilitee: null}", "Did you mean 'utility'"),
        ("lr: 1e-3", "max_steps: 4", "ends at step 4, before the last budget, 5"),
        ("[0, 5]", "[5, 10]", "budgets must begin with 0 and rise"),
        ("[none, safety_sft]", "[safety_sft, safety_sft]", "defenses has .* twice"),
        ("[0, 5]", "[0", "this is no YAML"),
    ],
)
def test_mistakes_are_named_with_their_place(old, new, said):
    assert old in SPEC
    with pytest.raises(CasehardenError, match=said):
        spec(SPEC.replace(old, new))


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(SPEC.replace("lr:", "lrr:"))
    with pytest.raises(CasehardenError, match=r"bad\.yaml: attacks\[0\]"):
        load(path)
    with pytest.raises(CasehardenError, match="cannot read"):
        load(tmp_path / "absent.yaml")
