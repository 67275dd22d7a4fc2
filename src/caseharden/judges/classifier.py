"""A sequence classifier of Transformers as a judge: a harm classifier from the hub, or one of one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from caseharden.errors import CasehardenError, nearest
from caseharden.judges.judge import Answer, version_of


@dataclass(frozen=True)
class Classifier:
    """Asks a sequence classifier how probable its class `label` is, given question and answer.

    `model` is a folder or a hub id, of safetensors weights; no remote code is run. `template` makes the text
    that it reads of ``{prompt}`` and ``{output}``; without one, the two are given as a pair, as most
    classifiers of answers expect them. Reads at most `max_length` tokens. Runs on the CPU.
    """

    model: str
    label: str
    template: str | None = None
    max_length: int = 512
    batch_size: int = 32
    knobs: ClassVar = ("batch_size",)

    @property
    def version(self) -> str:
        """Of the weights and of how they are asked."""
        return version_of(_load(self.model)[2], self.label, str(self.template), str(self.max_length))

    def score(self, answers: Sequence[Answer]) -> list[float]:
        import torch

        tokenizer, model, _ = _load(self.model)
        column = self._column(model.config.label2id)
        scores: list[float] = []
        for start in range(0, len(answers), self.batch_size):
            texts = self._texts(answers[start : start + self.batch_size])
            encoded = tokenizer(
                *texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            with torch.no_grad():
                logits_BC = model(**encoded).logits
            alone = logits_BC.shape[1] == 1 or model.config.problem_type == "multi_label_classification"
            scores += (torch.sigmoid(logits_BC) if alone else torch.softmax(logits_BC, -1))[:, column].tolist()
        return scores

    def _texts(self, answers: Sequence[Answer]) -> tuple[list[str], ...]:
        if self.template is None:
            return [answer.prompt for answer in answers], [answer.output for answer in answers]
        filled = (self.template.replace("{prompt}", a.prompt).replace("{output}", a.output) for a in answers)
        return (list(filled),)

    def _column(self, labels: dict[str, int]) -> int:
        if self.label not in labels:
            raise CasehardenError(f"{self.model} has no class {self.label!r}.{nearest(self.label, labels)}")
        return labels[self.label]


@lru_cache(maxsize=4)
def _load(source: str) -> tuple[Any, Any, str]:
    """Tokenizer, model, and a hash of both."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    common = {"trust_remote_code": False, "local_files_only": Path(source).exists()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        model = AutoModelForSequenceClassification.from_pretrained(source, use_safetensors=True, **common).eval()
    except (OSError, ValueError) as error:
        raise CasehardenError(
            f"cannot load a classifier from {source!r}: {error} Give a folder with safetensors weights, or a hub "
            "id that this machine can reach."
        ) from error
    digest = hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().float().numpy().tobytes())
    return tokenizer, model, digest.hexdigest()
