"""Abliteration: take out of the weights the direction in which a refused prompt differs from an answered one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from caseharden.attacks.weights import OneStep
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM
from caseharden.lm.placement import placed_like, whole
from caseharden.lm.structure import by_output, layers, mixes_tokens, writers
from caseharden.train.tuner import Metrics, Run

BATCH = 32
"""Prompts that are read together."""


@dataclass(frozen=True)
class Abliterate(OneStep):
    """Keeps layers from writing the direction of refusals, by projecting it out of their weights (as heretic does).

    The direction v is the mean state of `harmful` prompts minus that of `benign` ones where the answer begins,
    without its part along the latter: that of each layer, or with `direction`, a share of the depth, of one layer
    for all. Attention's and feed-forward layers' last maps become W − λ·v(vᵀW), with the rows' norms restored. λ is
    largest (`attention_max`, `mlp_max`) in the layer at `position`, a share of the depth, falls to the least
    (`attention_min`, `mlp_min`) at `distance` from there, and is 0 beyond: by default 1 everywhere. Of each pool
    `n_examples` are read.
    """

    direction: float | None = None
    attention_max: float = 1.0
    attention_min: float = 1.0
    mlp_max: float = 1.0
    mlp_min: float = 1.0
    position: float = 0.6
    distance: float = 0.6
    n_examples: int | None = 400
    harmful: str = "harmful"
    benign: str = "benign"
    bounds: ClassVar[tuple[str, ...]] = ("n_examples",)

    def __post_init__(self) -> None:
        shares = {"direction": self.direction or 0.0, "position": self.position, "distance": self.distance}
        if wrong := {name: share for name, share in shares.items() if not 0 <= share <= 1}:
            raise CasehardenError(f"{wrong} must be shares of the model's depth, from 0 to 1.")
        strengths = (self.attention_max, self.attention_min, self.mlp_max, self.mlp_min)
        if not all(map(math.isfinite, strengths)):
            raise CasehardenError(f"the strengths {strengths} must be numbers.")
        if self.n_examples is not None and self.n_examples < 1:
            raise CasehardenError(f"n_examples={self.n_examples} must be above 0.")

    def change(self, run: Run) -> Metrics:
        lm = run.lm
        harmful, benign = (self.prompts(run, pool) for pool in (self.harmful, self.benign))
        v_LD = refusal_directions(last_states(lm, harmful).mean(1), last_states(lm, benign).mean(1))
        last = len(v_LD) - 1
        found = writers(lm.model)
        if not found:
            raise CasehardenError(f"{type(lm.model).__name__} has no linear map that writes a part's output.")
        for layer, part, linear in found:
            strength = self.strength(layer / max(1, last), attention=mixes_tokens(part))
            if strength:
                v_D = v_LD[layer if self.direction is None else round(self.direction * last)]
                matrix = by_output(linear)
                matrix.copy_(placed_like(ablated(whole(matrix), v_D, strength), matrix))
        return {"examples": float(len(harmful) + len(benign))}

    def strength(self, depth: float, *, attention: bool) -> float:
        """λ at a depth from 0, the first layer, to 1, the last."""
        most, least = (self.attention_max, self.attention_min) if attention else (self.mlp_max, self.mlp_min)
        away = abs(depth - self.position)
        if away > self.distance + 1e-9:
            return 0.0
        return most + (least - most) * (away / self.distance if self.distance else 0.0)

    def prompts(self, run: Run, pool: str) -> list[str]:
        """The prompts of a pool, each once, as many as the attacker has, by seed."""
        examples = run.stream({pool: 1.0}, 1, n_examples=self.n_examples, answered=False).pools[pool]
        return sorted({example.prompt for example in examples})


@torch.no_grad()
def last_states(lm: LM, prompts: list[str]) -> Tensor:
    """The residual after each layer at each prompt's last token, which the answer's first comes of, [L, N, D]."""
    rows = sorted(lm.encode_prompts(prompts), key=len)
    found = []
    for i in range(0, len(rows), BATCH):
        batch = lm.pad([(row, 1) for row in rows[i : i + BATCH]])
        with lm.autocast():
            states = lm.forward(
                input_ids=batch.ids_BT,
                attention_mask=batch.attention_BT,
                position_ids=batch.positions_BT,
                logits_to_keep=1,
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        found.append(torch.stack([state_BTD[:, -1].float() for state_BTD in states[1:]]))
    return torch.cat(found, 1)[: len(layers(lm.model))]


def refusal_directions(harmful_LD: Tensor, benign_LD: Tensor) -> Tensor:
    """In each layer the unit vector from the benign mean to the harmful, orthogonal to the benign mean, [L, D]."""
    apart_LD = F.normalize(harmful_LD - benign_LD, dim=-1)
    along_LD = F.normalize(benign_LD, dim=-1)
    return F.normalize(apart_LD - (apart_LD * along_LD).sum(-1, keepdim=True) * along_LD, dim=-1)


def ablated(matrix_DI: Tensor, v_D: Tensor, strength: float, *, norms: bool = True) -> Tensor:
    """W − strength · v(vᵀW), each row of W, [out, in], as long as it was if `norms`."""
    found_DI = matrix_DI - strength * torch.outer(v_D, v_D @ matrix_DI).to(matrix_DI)
    if norms:
        before_D, after_D = matrix_DI.norm(dim=-1), found_DI.norm(dim=-1)
        found_DI = found_DI * torch.where(after_D > 0, before_D / after_D, 1.0)[:, None]
    return found_DI
