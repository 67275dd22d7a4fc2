"""Rollouts: a policy's own answers to prompts, and what a model makes of each of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from caseharden.data.example import Example
from caseharden.engines.engine import Engine
from caseharden.judges.judge import Answer, Judge, judged
from caseharden.lm.batch import Batch
from caseharden.lm.lm import LM
from caseharden.lm.logps import entropy, scale_logits, token_logps
from caseharden.lm.prefix import answer_logits


@dataclass(frozen=True)
class Rows:
    """Token ids of P prompts and of G answers to each: B = P·G rows, those of a prompt together.

    Tensors that speak of the answers' tokens are [B, N], N the longest answer, aligned on the right.
    """

    prompts: list[list[int]]
    answers: list[list[int]]

    @cached_property
    def owners(self) -> list[int]:
        """Whose prompt each answer continues, [B]."""
        return [b * len(self.prompts) // len(self.answers) for b in range(len(self.answers))]

    @property
    def mask_BN(self) -> Tensor:
        """True on the answers' tokens; on the CPU."""
        lengths_B = torch.tensor([len(answer) for answer in self.answers])
        N = int(lengths_B.max())
        return torch.arange(N) >= N - lengths_B[:, None]

    def chunks(self, size: int) -> Iterator[list[int]]:
        """Places of at most `size` answers at a time: those of a prompt together, by the prompt's length."""
        order = sorted(range(len(self.answers)), key=lambda b: (len(self.prompts[self.owners[b]]), self.owners[b]))
        return (order[start : start + size] for start in range(0, len(order), size))

    def parts(self, lm: LM, size: int) -> Iterator[tuple[list[int], int]]:
        """The same of the answers that this process is to take, each with how often they count: see `Placement`."""
        return lm.meter.parts(self.chunks(lm.placement.portion(len(self.answers), size)))

    def batch(self, lm: LM, places: Sequence[int]) -> Batch:
        """Prompts and answers at these places as one batch."""
        pairs = [(self.prompts[self.owners[b]], self.answers[b]) for b in places]
        return lm.pad([(prompt + answer, len(answer)) for prompt, answer in pairs])

    def logits(self, lm: LM, places: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """`logits_BRV`, `targets_BR` and `mask_BR` of the answers at these places: see `lm.prefix`."""
        owners = [self.owners[b] for b in places]
        mine = sorted(set(owners))
        prompts = [self.prompts[owner] for owner in mine]
        return answer_logits(lm, prompts, [mine.index(o) for o in owners], [self.answers[b] for b in places])

    def logps(self, lm: LM, size: int, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of the tokens under `lm`, [B, N]."""
        return self._each(lm, size, lambda logits, targets: token_logps(scale_logits(logits, temperature), targets))

    def entropy(self, lm: LM, size: int) -> Tensor:
        """Entropy of `lm` where each token was drawn, [B, N]."""
        return self._each(lm, size, lambda logits, targets: entropy(logits))

    @torch.no_grad()
    def _each(self, lm: LM, size: int, found: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        values_BN = torch.zeros(self.mask_BN.shape, device=lm.device)
        for places, weight in self.parts(lm, size):
            logits_BRV, targets_BR, mask_BR = self.logits(lm, places)
            values_BR = found(logits_BRV, targets_BR).masked_fill(~mask_BR, 0.0)
            if weight:
                values_BN[places, -targets_BR.shape[1] :] = values_BR
        return lm.placement.sum(values_BN)


@dataclass(frozen=True)
class Rollouts:
    """G answers of a policy to each of P examples, with the policy as it stood when it wrote them.

    `rows` has the answers as token ids, with the end token where an answer came to one (`ended`); `texts` as
    text, after the example's prefix (`finished` where it is an answer, and not only the thinking before one).
    `limit` is how many tokens an answer may have, `temperature` what it was drawn at. `engine_logps` has the
    log-probability of each token as the engine drew it, where that is told.
    """

    lm: LM
    examples: list[Example]
    rows: Rows
    texts: list[str]
    ended: list[bool]
    finished: list[bool]
    limit: int
    temperature: float = 1.0
    forward_batch: int = 64
    engine_logps: list[list[float]] | None = None

    @property
    def samples(self) -> int:
        """G."""
        return len(self.texts) // len(self.examples)

    @property
    def asked(self) -> list[Example]:
        """The example that each row answers, [B]."""
        return [self.examples[owner] for owner in self.rows.owners]

    def of(self, groups: Sequence[int]) -> Rollouts:
        """Only these examples and their answers."""
        rows = [p * self.samples + g for p in groups for g in range(self.samples)]
        return replace(
            self,
            examples=[self.examples[p] for p in groups],
            rows=Rows([self.rows.prompts[p] for p in groups], [self.rows.answers[b] for b in rows]),
            texts=[self.texts[b] for b in rows],
            ended=[self.ended[b] for b in rows],
            finished=[self.finished[b] for b in rows],
            engine_logps=self.engine_logps and [self.engine_logps[b] for b in rows],
        )

    def __add__(self, other: Rollouts) -> Rollouts:
        return replace(
            self,
            examples=self.examples + other.examples,
            rows=Rows(self.rows.prompts + other.rows.prompts, self.rows.answers + other.rows.answers),
            texts=self.texts + other.texts,
            ended=self.ended + other.ended,
            finished=self.finished + other.finished,
            engine_logps=self.engine_logps and other.engine_logps and self.engine_logps + other.engine_logps,
        )

    @cached_property
    def mask_BN(self) -> Tensor:
        """True on the answers' tokens, on the policy's device."""
        return self.rows.mask_BN.to(self.lm.device)

    @cached_property
    def entropy_BN(self) -> Tensor:
        """The policy's entropy where each token was drawn, at temperature 1; computed once."""
        return self.rows.entropy(self.lm, self.forward_batch)

    def logps(self, lm: LM) -> Tensor:
        """Log-probabilities of the answers' tokens under `lm`, at the temperature they were drawn at, [B, N]."""
        return self.rows.logps(lm, self.forward_batch, self.temperature)

    @property
    def engine_logps_BN(self) -> Tensor | None:
        """`engine_logps` as a tensor on the policy's device, 0 on padding; None where the engine told none."""
        if self.engine_logps is None:
            return None
        N = self.mask_BN.shape[1]
        return torch.tensor([[0.0] * (N - len(row)) + row for row in self.engine_logps], device=self.lm.device)

    def mean_over_answer(self, values_BN: Tensor) -> Tensor:
        """Mean over each answer's tokens, [P, G]."""
        return self.by_group(values_BN.masked_fill(~self.mask_BN, 0.0).sum(-1) / self.mask_BN.sum(-1))

    def by_group(self, values_B: Tensor) -> Tensor:
        """[B] as [P, G]."""
        return values_B.view(-1, self.samples)

    def scores(self, judge: Judge) -> Tensor:
        """`judge`'s scores of the answers, [P, G]; NaN where it gave none."""
        rows = zip(self.asked, self.texts, self.finished, strict=True)
        answers = [Answer(e.id, e.prompt, text, e.answer, e.topic, finished=done) for e, text, done in rows]
        scored = self.lm.placement.once(lambda: [answer.score for answer in judged(judge, answers)])
        return self.by_group(torch.tensor(scored, device=self.lm.device))


def roll_out(
    lm: LM,
    engine: Engine,
    examples: Sequence[Example],
    samples: int,
    limit: int,
    temperature: float,
    seed: int,
) -> Rollouts:
    """Have `engine` write `samples` answers to each example's prompt, each going on from the example's prefix."""
    prompts = lm.encode_prompts([e.prompt for e in examples], [e.prefix for e in examples])
    answers, logps = engine.write(lm, prompts, samples, limit, temperature, seed)
    ends = set(lm.ends())
    ended = [row[-1] in ends for row in answers]
    texts, finished = zip(*lm.read(answers, [e.prefix for e in examples for _ in range(samples)]), strict=True)
    rows = Rows(prompts, answers)
    return Rollouts(lm, list(examples), rows, [*texts], ended, [*finished], limit, temperature, engine_logps=logps)
