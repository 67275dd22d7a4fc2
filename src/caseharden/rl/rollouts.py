"""Rollouts: a policy's own answers to prompts, who writes them, and what a model makes of each of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caseharden.data.example import Example
from caseharden.engines.engine import Engine
from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy, tempered, token_logps
from caseharden.lm.prefix import answer_logits


@dataclass(frozen=True)
class Rollouts:
    """G answers to each of P prompts: B = P·G rows, those of a prompt together.

    `answers` are token ids, with the end token where an answer came to one; `texts` the same as text.
    """

    examples: list[Example]
    prompts: list[list[int]]
    answers: list[list[int]]
    texts: list[str]
    ended: list[bool]
    limit: int
    """Tokens that an answer may have at most."""

    @property
    def samples(self) -> int:
        """G."""
        return len(self.answers) // len(self.prompts)

    @property
    def asked(self) -> list[Example]:
        """The example that each row answers, B of them."""
        return [example for example in self.examples for _ in range(self.samples)]

    @property
    def rows(self) -> Rows:
        return Rows(self.prompts, [i // self.samples for i in range(len(self.answers))], self.answers)

    def of(self, groups: Sequence[int]) -> Rollouts:
        """Only these prompts and their answers."""
        G = self.samples
        rows = [p * G + g for p in groups for g in range(G)]
        return Rollouts(
            [self.examples[p] for p in groups],
            [self.prompts[p] for p in groups],
            [self.answers[b] for b in rows],
            [self.texts[b] for b in rows],
            [self.ended[b] for b in rows],
            self.limit,
        )

    def __add__(self, other: Rollouts) -> Rollouts:
        return Rollouts(
            self.examples + other.examples,
            self.prompts + other.prompts,
            self.answers + other.answers,
            self.texts + other.texts,
            self.ended + other.ended,
            self.limit,
        )


def roll_out(
    lm: LM,
    engine: Engine,
    examples: Sequence[Example],
    samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Rollouts:
    """`samples` answers of `lm` to each example's prompt, or of how each goes on from the example's prefix."""
    prompts = lm.encode_prompts([e.prompt for e in examples], [e.prefix for e in examples])
    answers = engine.write(lm, prompts, samples, max_new_tokens, temperature, seed).tokens
    ends = set(lm.ends())
    ended = [row[-1] in ends for row in answers]
    return Rollouts(list(examples), prompts, answers, lm.text(answers), ended, max_new_tokens)


@dataclass(frozen=True)
class Rows:
    """B answers as token ids, and whose prompt each continues.

    Tensors that speak of their tokens are [B, N], N the longest answer, aligned on the right.
    """

    prompts: list[list[int]]
    owners: list[int]
    answers: list[list[int]]

    @property
    def mask_BN(self) -> Tensor:
        """True on the answers' tokens; on the CPU."""
        lengths_B = torch.tensor([len(answer) for answer in self.answers])
        N = int(lengths_B.max())
        return torch.arange(N) >= N - lengths_B[:, None]

    def chunks(self, size: int) -> Iterator[Rows.Chunk]:
        """At most `size` answers at a time: those of a prompt together, prompts in order of their length."""
        prompt_length = [len(self.prompts[owner]) for owner in self.owners]
        order = sorted(range(len(self.owners)), key=lambda i: (prompt_length[i], self.owners[i]))
        for start in range(0, len(order), size):
            yield Rows.Chunk(self, order[start : start + size])

    def logps(self, lm: LM, size: int, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of the tokens under `lm`, [B, N]."""
        return self._each(lm, size, lambda logits, targets: token_logps(tempered(logits, temperature), targets))

    def entropy(self, lm: LM, size: int) -> Tensor:
        """Entropy of `lm` where each token was drawn, [B, N]."""
        return self._each(lm, size, lambda logits, targets: entropy(logits))

    @torch.no_grad()
    def _each(self, lm: LM, size: int, found: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        values_BN = torch.zeros(self.mask_BN.shape, device=lm.device)
        for chunk in self.chunks(size):
            logits_BRV, targets_BR, mask_BR = chunk.logits(lm)
            values_BR = found(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0)
            values_BN[chunk.places, -targets_BR.shape[1] :] = values_BR
        return values_BN

    @dataclass(frozen=True)
    class Chunk:
        """Some of the answers, by their places."""

        rows: Rows
        places: list[int]

        def batch(self, lm: LM) -> Batch:
            """Prompts and answers as one batch."""
            pairs = [(self.rows.prompts[self.rows.owners[i]], self.rows.answers[i]) for i in self.places]
            return lm.pad([(prompt + answer, len(answer)) for prompt, answer in pairs])

        def logits(self, lm: LM) -> tuple[Tensor, Tensor, Tensor]:
            """As `LM.response_logits`; a prompt goes through the model once for all its answers."""
            owners = [self.rows.owners[i] for i in self.places]
            mine = sorted(set(owners))
            return answer_logits(
                lm,
                [self.rows.prompts[owner] for owner in mine],
                [mine.index(owner) for owner in owners],
                [self.rows.answers[i] for i in self.places],
            )
