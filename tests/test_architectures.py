"""One set of assertions that a tiny random model of every supported architecture must meet."""

from __future__ import annotations

import copy
import pathlib
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from architectures import CONFIGS, REFUSED, row, tiny_model
from caseharden.attacks import GRPO, SFT
from caseharden.defenses import Patcher
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.lm.logps import token_logps
from caseharden.lm.prefix import answer_logits
from caseharden.train.adapters import LoRA, out_of_reach
from caseharden.train.objectives import Imitate
from caseharden.train.tuner import Run
from toys import Checksum

PROMPTS = ["a", "b c d e f g h i j k l m", "n o p q", "r s t u v w x y z a b c d e f g ?"]
ANSWERS = ["d e f a b", "c", "no yes . ? a b", "b b"]
SMALL = SFT(lr=1e-3, batch_size=2, max_steps=2)
TUNERS = {
    "sft": SMALL,
    "lora": replace(SMALL, lora=LoRA(r=2)),
    "grpo": GRPO(reward=Checksum(), prompts=2, samples=2, max_new_tokens=3, max_steps=1, lr=1e-3),
    "patcher": Patcher(
        (SMALL,),
        Imitate(batch_size=2),
        Imitate({"benign": 1.0}, batch_size=2),
        loops=1,
        attack_steps=1,
        defense_steps=1,
    ),
}


@pytest.fixture(scope="module", params=[name for name in CONFIGS if name not in REFUSED])
def lm(request, word_tokenizer) -> LM:
    return tiny_model(request.param, word_tokenizer)


def logps_alone(lm: LM, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities of an answer's tokens where nothing is padded and nothing cached, [N]."""
    ids = prompt + answer
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -len(answer) - 1 : -1]
    return torch.log_softmax(logits, -1)[range(len(answer)), answer]


def test_answers_to_a_ragged_batch_are_those_of_generate_to_each_prompt_alone(lm):
    prompts = lm.encode_prompts(PROMPTS)
    plain = GenerationConfig(max_new_tokens=10, do_sample=False, eos_token_id=lm.ends(), pad_token_id=0)
    expected = []
    for prompt in prompts:
        with torch.no_grad():
            ids = lm.model.generate(
                input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=plain
            )
        expected.append(ids[0, len(prompt) :].tolist())
    assert len({tuple(row) for row in expected}) > 1
    for samples in (1, 2):
        found = Native().write(lm, prompts, samples, 10, 0.0, seed=0).tokens
        assert found == [row for row in expected for _ in range(samples)]


def test_log_probabilities_are_the_same_padded_or_after_a_shared_prompt(lm):
    prompts, answers = lm.encode_prompts(PROMPTS), lm._tokenize(ANSWERS)
    expected = [logps_alone(lm, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    padded = lm.pad([(prompt + answer, len(answer)) for prompt, answer in zip(prompts, answers, strict=True)])
    with torch.no_grad():
        for logits_BRV, targets_BR, mask_BR in (
            lm.response_logits(padded),
            answer_logits(lm, prompts, range(len(prompts)), answers),
        ):
            logps_BR = token_logps(logits_BRV, targets_BR)
            for row_R, mask_R, alone in zip(logps_BR, mask_BR, expected, strict=True):
                assert torch.allclose(row_R[mask_R], alone, atol=1e-4)


@pytest.mark.parametrize("tuner", TUNERS)
def test_every_kind_of_tuner_takes_its_step(lm, toy_domain, tuner):
    learner = LM(AutoModelForCausalLM.from_config(lm.model.config), lm.tokenizer, "learner")
    learner.load_state_dict(lm.state_dict())
    run = Run(learner, toy_domain, "defender" if tuner == "patcher" else "attacker", 0)
    steps = list(run.drive(TUNERS[tuner]))
    assert steps
    assert run.finish().weights_hash() != lm.weights_hash()


def test_every_adapter_is_part_of_the_forward_pass(lm):
    model = LoRA(r=2).on(copy.deepcopy(lm.model)).eval()
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for parameter in adapters:
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor(lm.encode_prompts(PROMPTS[1:2]))
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        assert torch.allclose(model.merge_and_unload()(input_ids=ids, use_cache=False).logits, expected, atol=1e-3)


def test_adapters_reach_the_last_projection_of_linear_attention(word_tokenizer):
    assert not [n for n in out_of_reach(tiny_model("qwen3_next", word_tokenizer).model) if n.endswith("out_proj")]


def test_a_saved_model_is_loaded_whole_with_the_same_logits(lm, tmp_path):
    lm.save(tmp_path)
    ids = torch.tensor(lm.encode_prompts(PROMPTS[1:2]))
    with torch.no_grad():
        expected = lm.model(input_ids=ids).logits
        for model in (LM.load(tmp_path).model, AutoModelForCausalLM.from_pretrained(tmp_path)):
            assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-4)


def test_the_documentation_says_how_it_is_decoded(lm):
    page = pathlib.Path(__file__).parents[1] / "docs" / "models.md"
    assert row(lm) in page.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", REFUSED)
def test_what_reads_padding_as_text_is_refused(name, word_tokenizer, tmp_path):
    lm = tiny_model(name, word_tokenizer)
    assert "refused" in row(lm)
    lm.save(tmp_path)
    with pytest.raises(CasehardenError, match="reads a padded prompt otherwise"):
        LM.load(tmp_path)
