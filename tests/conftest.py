"""Fixtures: a random model of a few thousand parameters, and a domain of a few dozen words to go with it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from caseharden.data.pools import Pools, Role
from caseharden.lm import sources
from caseharden.lm.lm import LM
from caseharden.study import jobs
from caseharden.train.optim import Descent
from caseharden.train.tuner import Run
from factories import copy_of
from toys import WORDS, ToyDomain

torch.set_num_threads(1)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """What says nothing of jobs runs in this process: a worker takes seconds to start."""
    monkeypatch.setattr(jobs, "cores", lambda: 1)


@pytest.fixture
def toy_domain() -> ToyDomain:
    return ToyDomain()


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """One with a token for each word of the toy domain, and a chat template."""
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", "<user>", "<assistant>", *WORDS])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template="{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}",
    )


@pytest.fixture
def tiny_lm(word_tokenizer) -> LM:
    """A Llama of about ten thousand random parameters."""
    tokenizer = copy.deepcopy(word_tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LM(LlamaForCausalLM(config), tokenizer, "tiny")


@pytest.fixture
def run_of(tiny_lm, toy_domain) -> Callable[..., Run]:
    """``run_of(role, seed=0)``: a run on a copy of the tiny model, which itself stays as it is."""

    def make(role: Role, seed: int = 0, *, domain: Pools = toy_domain) -> Run:
        return Run(copy_of(tiny_lm), domain, role, seed)

    return make


@pytest.fixture
def gradients_left(monkeypatch):
    """Descents take no step: weights stay, and their gradients can be looked at."""
    monkeypatch.setattr(Descent, "step", lambda self, gradient=None: {"grad_norm": 0.0, "lr": self.lr})


@pytest.fixture
def data_dir():
    """The folder of public data sets; tests that need it are skipped where it is not given."""
    folder = os.environ.get("CASEHARDEN_DATA")
    if not folder:
        pytest.skip("CASEHARDEN_DATA is not set")
    return folder


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """No network and an empty cache of models."""

    def unreachable(*_, **__):
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr(sources, "snapshot_download", unreachable)
    monkeypatch.setenv("CASEHARDEN_CACHE", str(tmp_path / "cache"))
