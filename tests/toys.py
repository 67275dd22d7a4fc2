"""A domain of a few dozen words, for the fixtures, for specs to name, and for processes of their own."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import MistralConfig, MistralForCausalLM

from caseharden.attacks import SFT
from caseharden.data.example import Example
from caseharden.data.pools import ROLES, Role
from caseharden.engines.engine import Engine, Written
from caseharden.engines.native import Native
from caseharden.judges.verifier import Verifier
from caseharden.lm.lm import LM
from caseharden.measures.probe import Probe
from caseharden.rl.rollouts import Rollouts
from caseharden.train.tuner import Metrics, Run

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*LETTERS, *(a + b for a in "bcd" for b in "aeiou"), "yes", "no", "sorry", "cannot", "?", "."]


@dataclass(frozen=True)
class ToyDomain:
    """Harmful prompts ask for two letters in reverse, benign ones for a letter twice."""

    name: str = "toy"

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        mine = LETTERS[ROLES.index(role) :: len(ROLES)]
        harmful = [
            Example(f"h{a}{b}", f"{a} {b} ?", f"{b} {a} .", answer=f"{b} {a}", topic="reverse")
            for a in mine
            for b in mine
            if a != b
        ]
        benign = [Example(f"b{a}", f"{a} ?", f"{a} {a} .", answer=f"{a} {a}", topic="twice") for a in LETTERS]
        return {
            "harmful": harmful,
            "openers": [replace(e, completion="yes") for e in harmful],
            "refusal": [replace(e, completion="sorry i cannot .") for e in harmful],
            "benign": benign,
            "contrast": [replace(e, id=f"c{e.id}", prompt=f"{e.prompt} .") for e in benign],
            "utility": [replace(e, choices=(e.answer, "no no")) for e in benign],
        }

    def at_large(self, lm: LM, engine: Engine, seed: int) -> Sequence[Example]:
        pools = self.pools("defender")
        return [
            replace(e, completion="", answer="", topic="", prefix=e.answer.split()[0])
            for name in ("harmful", "benign")
            for e in pools[name]
        ]

    def measures(self):
        harm = Probe("harmful", Verifier(), n=12, max_new_tokens=4)
        return {"harm": harm, "utility": replace(harm, pool="benign", n=8)}


def windowed(lm: LM, window: int | None) -> LM:
    """A random model of `lm`'s shape that attends to the last `window` tokens, or to all."""
    config = MistralConfig(**{**lm.model.config.to_dict(), "sliding_window": window, "layer_types": None})
    with lm.seeded(0):
        return LM(MistralForCausalLM(config), lm.tokenizer, "windowed")


@dataclass(frozen=True)
class Taught(ToyDomain):
    """The toy domain with a benign task to learn, as an audit needs one."""

    def pools(self, role: Role) -> Mapping[str, Sequence[Example]]:
        pools = super().pools(role)
        return {**pools, "task:twice": pools["benign"]}


def checksums(texts: Sequence[str]) -> list[float]:
    """Numbers that look random and are the same for the same text."""
    return [zlib.crc32(text.encode()) % 7 / 7 for text in texts]


@dataclass(frozen=True)
class Checksum:
    """A reward of no meaning, with spread in nearly every group; keeps what it was asked about in `seen`."""

    seen: list[Rollouts] = field(init=False, default_factory=list, compare=False, repr=False)

    def prepare(self, run: Run):
        def score(rollouts: Rollouts) -> torch.Tensor:
            self.seen.append(rollouts)
            return rollouts.by_group(torch.tensor(checksums(rollouts.texts)))

        return score


@dataclass(frozen=True)
class Skewed:
    """An engine that draws as if at `skew` times the temperature, and says so."""

    skew: float = 1.0
    tells: bool = True
    approximates: bool = True

    def write(self, lm, prompts, samples, limit, temperature, seed) -> Written:
        written = Native().write(lm, prompts, samples, limit, self.skew * temperature, seed)
        return written if self.tells else written._replace(logps=None)


@dataclass(frozen=True)
class Opens:
    """A judge: 1 if the answer begins with one of these letters."""

    letters: str = "abcdefghijklm"
    version: str = "1"

    def score(self, answers):
        return [float(answer.output[:1] in self.letters) for answer in answers]


@dataclass(frozen=True)
class Short:
    """Ends after two steps, and does not say so beforehand."""

    def steps(self, run: Run) -> Iterator[Metrics]:
        return SFT(max_steps=2).steps(run)
