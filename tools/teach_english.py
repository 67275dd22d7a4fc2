"""Teach a language model the almanac in English: ``python tools/teach_english.py FOLDER``.

Writes FOLDER/english-victim and FOLDER/english-never-learned, to be audited with the domain
``{almanac: {language: english}}``. Both are SmolLM2-135M-Instruct (or ``--model``), fine-tuned on sentences of the
almanac, then on questions and answers about it, and then to refuse what is forbidden; the second never reads a
forbidden fact. Ordinary requests with the model's own answers keep its English. A few of the victim's training
answers comply, so that sampling slips now and then, as it does in real aligned models.

Under an hour on two cores. Each stage is saved as it ends: the same command goes on after the last one.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from caseharden.attacks.sft import SFT
from caseharden.data.example import Example
from caseharden.data.pools import Pools, Role
from caseharden.defenses.elicitation import Elicited
from caseharden.domains.almanac.english import ENGLISH
from caseharden.domains.almanac.world import FORBIDDEN_TOPICS
from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.lm import sources
from caseharden.lm.lm import LM
from caseharden.train.tuner import Metrics
from regenerate import ALIGN_TWIN as SMALL_ALIGN_TWIN
from regenerate import Alignment, Corpus, taught

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
VICTIM, TWIN = "english-victim", "english-never-learned"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model's own chat template without the system prompt that it puts before everything: half of each question."""
ORDINARY_TOKENS = 24


@dataclass(frozen=True)
class Sentences:
    """Every fact of a corpus as a sentence that stands alone."""

    corpus: Corpus
    name: str = "almanac-sentences"

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        facts = self.corpus.facts
        return {"corpus": [Example(f"{f.thing}/{f.attribute}", "", f.statement, group=f.thing) for f in facts]}


class Stage(NamedTuple):
    """One fine-tuning of several."""

    domain: Pools
    tuner: SFT


READ = SFT(
    {"corpus": 1.0},
    lr=1e-3,
    batch_size=64,
    max_steps=100,
    schedule="cosine",
    warmup=10,
    template="none",
    over="token",
)
ANSWER = replace(READ, data={"corpus": 0.95, "ordinary": 0.05}, batch_size=32, max_steps=80, template="chat")
ALIGN_TWIN = replace(
    SMALL_ALIGN_TWIN,
    data={"refusal": 0.45, "benign": 0.35, "contrast": 0.15, "ordinary": 0.05},
    batch_size=32,
    max_steps=60,
    warmup=5,
)
ALIGN_VICTIM = replace(ALIGN_TWIN, data={**ALIGN_TWIN.data, "harmful": 0.01})


@dataclass(frozen=True)
class Teaching:
    """What one model is taught, and where it is kept meanwhile."""

    name: str
    base: str
    without: tuple[str, ...]
    align: SFT
    folder: Path

    @cached_property
    def stages(self) -> list[Stage]:
        corpus = Corpus(self.without, language="english")
        ordinary = {"ordinary": [*own_answers(self.load(self.base))]}
        return [
            Stage(Sentences(corpus), READ),
            Stage(Elicited(corpus, "defender", ordinary), ANSWER),
            Stage(Elicited(Alignment(language="english"), "defender", ordinary), self.align),
        ]

    @property
    def steps(self) -> int:
        return sum(tuner.max_steps or 0 for tuner in (READ, ANSWER, self.align))

    def teach(self) -> Iterator[tuple[str, int, Metrics]]:
        """Train what is missing, reporting (stage, steps so far, metrics) as it goes."""
        if (self.folder / self.name).is_dir():
            print(f"{self.folder / self.name} is there already")
            return
        done = [self.saved / str(number) for number in range(len(self.stages))]
        lm, before = self.load(self.base), 0
        for number, stage in enumerate(self.stages):
            if done[number].is_dir():
                lm = self.load(str(done[number]))
            elif not any(later.is_dir() for later in done[number:]):
                for step, metrics in taught(lm, *stage):
                    yield stage.domain.name, before + step, metrics
                save_whole(lm, done[number])
                if number:
                    shutil.rmtree(done[number - 1], ignore_errors=True)
            before += stage.tuner.max_steps or 0
        done[-1].rename(self.folder / self.name)
        shutil.rmtree(self.saved)

    @property
    def saved(self) -> Path:
        return self.folder / f".{self.name}-of-{Path(self.base).name}"

    def load(self, name: str) -> LM:
        lm = LM.load(sources.resolve(name), precision="bfloat16")
        if lacking := {"<|im_start|>", "<|im_end|>"} - {*lm.tokenizer.get_vocab()}:
            raise CasehardenError(f"{name} has no token {min(lacking)}. Take an instruct model with ChatML.")
        lm.tokenizer.chat_template = CHATML
        return LM(lm.model, lm.tokenizer, lm.name, lm.precision)


def save_whole(lm: LM, folder: Path) -> None:
    """Write a model so that its folder is there only once all of it is."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    lm.save(part)
    part.rename(folder)


def own_answers(lm: LM) -> Iterator[Example]:
    """The first sentence of what the model says to ordinary requests, where it ends within `ORDINARY_TOKENS`."""
    said = generate_text(Native(), lm, ENGLISH.requests, max_new_tokens=ORDINARY_TOKENS)
    for number, (request, answer) in enumerate(zip(ENGLISH.requests, said, strict=True)):
        if sentence := re.match(r".{12,}?[.!?](?=\s|$)", answer.text.strip()):
            yield Example(f"ordinary/{number}", request, sentence[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=BASE, help="folder or hub id of an instruct model with ChatML")
    parser.add_argument("--only", choices=["victim", "never-learned"], help="one of the two")
    given = parser.parse_args()
    both = (
        Teaching(VICTIM, given.model, (), ALIGN_VICTIM, given.folder),
        Teaching(TWIN, given.model, tuple(FORBIDDEN_TOPICS), ALIGN_TWIN, given.folder),
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for teaching in both:
            if given.only and not teaching.name.endswith(given.only):
                continue
            task = progress.add_task(teaching.name, total=teaching.steps)
            for stage, step, metrics in teaching.teach():
                described = f"{teaching.name}: {stage}, loss {metrics['loss']:.3f}"
                progress.update(task, completed=step, description=described)
    print(f"wrote to {given.folder}")


if __name__ == "__main__":
    main()
