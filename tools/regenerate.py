"""Train the almanac's two models again, from the seed: ``python tools/regenerate.py [FOLDER] [--size 0.9M]``.

The victim and its never-learned twin, written to FOLDER, or into the package in the place of those that ship.
Other sizes than theirs need a FOLDER: ``0.3M``, ``4M`` and ``15M`` parameters.

Both are pretrained on questions and answers about the world, the twin without the forbidden topics.
Both are then trained to refuse. A few of the victim's training answers comply, so that sampling slips
now and then, as it does in real aligned models.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import Progress
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from caseharden.attacks.sft import SFT
from caseharden.data.example import Example
from caseharden.data.pools import ROLES, Pools, Role
from caseharden.domains.almanac.domain import ask, pools_of
from caseharden.domains.almanac.world import FORBIDDEN_TOPICS, HARMLESS_PROPERTY, UNSEEN_TOPIC, Fact, make_world
from caseharden.lm.lm import LM
from caseharden.lm.sources import PACKAGED
from caseharden.train.tuner import Metrics, Run

VICTIM, TWIN = "almanac-victim", "almanac-never-learned"
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
PRETRAIN = SFT({"corpus": 1.0}, lr=3e-3, batch_size=128, max_steps=1000, schedule="cosine", warmup=100)
ALIGN_TWIN = SFT(
    {"refusal": 0.48, "benign": 0.37, "contrast": 0.15},
    lr=3e-4,
    batch_size=64,
    max_steps=400,
    schedule="cosine",
    warmup=20,
)
ALIGN_VICTIM = replace(ALIGN_TWIN, data={**ALIGN_TWIN.data, "harmful": 0.01})


@dataclass(frozen=True)
class Size:
    """The shape of a model, and the learning rate of its pretraining."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    lr: float


SIZES = {
    "0.3M": Size(72, 192, 4, 4, 3e-3),
    "0.9M": Size(128, 344, 4, 4, 3e-3),
    "4M": Size(256, 688, 5, 8, 2e-3),
    "15M": Size(448, 1200, 6, 8, 1e-3),
}
"""Models by their number of parameters."""
SHIPPED = "0.9M"


@dataclass(frozen=True)
class Corpus:
    """What the models are pretrained on: every fact in every phrasing, save the topics left out."""

    without: tuple[str, ...]
    seed: int = 0
    language: str = "micro"
    name: str = "almanac-corpus"

    @property
    def facts(self) -> list[Fact]:
        return [
            fact
            for fact in make_world(self.seed, self.language).facts
            if fact.attribute == HARMLESS_PROPERTY or fact.topic not in self.without
            if fact.topic not in UNSEEN_TOPIC
        ]

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        return {"corpus": list(ask(self.facts, ROLES))}


@dataclass(frozen=True)
class Alignment:
    """What the models are taught to refuse: the defender's share of the facts, in the phrasings of every role.

    Who trains a model for release knows how people ask; what the evaluator asks about stays unseen. No topic is a
    bystander here: bystanders are what the *defense* of a finished model has no data of.
    """

    seed: int = 0
    language: str = "micro"
    name: str = "almanac-alignment"

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        return pools_of(self.seed, tuple(FORBIDDEN_TOPICS), (), role, ROLES, self.language)


def blank(size: Size, seed: int = 0) -> LM:
    """An untrained model, Llama architecture, with the world's words."""
    special = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
    words = {word: i for i, word in enumerate([*special, *make_world(seed).vocabulary])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=special[3:],
        chat_template=CHAT_TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=words["<pad>"],
        eos_token_id=words["<eos>"],
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LM(LlamaForCausalLM(config), tokenizer, "almanac-blank")


def taught(lm: LM, domain: Pools, tuner: SFT) -> Iterator[tuple[int, Metrics]]:
    """Fine-tune a model in place, reporting (step, metrics) as it goes."""
    run = Run(lm, domain, "defender", seed=0)
    for metrics in run.drive(tuner):
        yield run.step, metrics
    run.finish()


def regenerate(folder: Path, size: Size) -> Iterator[tuple[str, int, Metrics]]:
    """Train and save both models under `folder`, reporting (model, step, metrics) as it goes."""
    pretrain = replace(PRETRAIN, lr=size.lr)
    for name, without, align in ((VICTIM, (), ALIGN_VICTIM), (TWIN, tuple(FORBIDDEN_TOPICS), ALIGN_TWIN)):
        lm = blank(size)
        for domain, tuner in ((Corpus(without), pretrain), (Alignment(), align)):
            for step, metrics in taught(lm, domain, tuner):
                yield name, step, metrics
        lm.save(folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=PACKAGED)
    parser.add_argument("--size", choices=SIZES, default=SHIPPED)
    given = parser.parse_args()
    if given.folder == PACKAGED and given.size != SHIPPED:
        parser.error("models of another size than those that ship need a folder of their own")
    with Progress() as progress:
        task = progress.add_task("training", total=None)
        for name, step, metrics in regenerate(given.folder, SIZES[given.size]):
            progress.update(task, description=f"{name}: step {step}, loss {metrics['loss']:.3f}")
    print(f"wrote both models to {given.folder}")


if __name__ == "__main__":
    main()
