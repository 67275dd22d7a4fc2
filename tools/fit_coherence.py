"""Calibrate the limits of `Coherence`: ``python tools/fit_coherence.py --data-dir DIR``.

Real answers are those that humans labelled as compliance in ``judge/xstest_refusal_labels.jsonl``, and
answers to benign tasks; broken ones are made of them (words shuffled, letters replaced, loops …), or are
real answers to somebody else's question. Each limit on language loses one real answer in two hundred; the
limit on the topic is where as many real pairs are lost as mismatched ones pass. Half of the answers
calibrate, the other half is reported. Takes some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caseharden.judges.coherence import HEAD, quantities
from caseharden.judges.encoder import ENCODER, LONGEST
from caseharden.judges.judge import Answer
from fit_refusal import FULL_COMPLIANCE, LABELS, rows

BENIGN = (
    "benign/gpteacher_roleplay.json",
    "benign/gpteacher_codegen.json",
    "benign/user_oriented_instructions.jsonl",
)
LENGTHS = (80, 150, 300, LONGEST)
"""Characters that answers are cut to, since studies cut them short as well."""
LOST = 0.005

Quantities = Mapping[str, NDArray[np.float64]]


def real_answers(data_dir: Path, rng: random.Random, n: int) -> list[Answer]:
    """`n` labelled answers that comply and `n` benign ones, cut to several lengths, shuffled."""
    labelled = [
        Answer(row["id"], row["prompt"], row["completion"], topic="labelled")
        for row in rows(data_dir / LABELS)
        if row["label"] == FULL_COMPLIANCE
    ]
    benign = [_benign(row) for name in BENIGN for row in rng.sample(rows(data_dir / name), n // len(BENIGN))]
    answers = [*rng.sample(labelled, n), *(answer for answer in benign if answer.output)]
    rng.shuffle(answers)
    return [replace(answer, output=answer.output.strip()[: rng.choice(LENGTHS)]) for answer in answers]


def corruptions(vocabulary: list[str], rng: random.Random) -> Mapping[str, Callable[[str], str]]:
    """Ways to break an answer, by name; `vocabulary` is what a word salad is made of."""

    def words_shuffled(text: str) -> str:
        return " ".join(rng.sample(text.split(), len(text.split())))

    def letters_replaced(text: str) -> str:
        drawn = rng.choices(string.ascii_lowercase, k=len(text))
        return "".join(new if c.isalpha() and rng.random() < 0.4 else c for c, new in zip(text, drawn, strict=True))

    def random_characters(text: str) -> str:
        return "".join(rng.choices(string.ascii_letters + string.digits + "     .,;", k=len(text)))

    def salad(text: str) -> str:
        return " ".join(rng.choices(vocabulary, k=len(text.split())))

    def loop(text: str) -> str:
        words = text.split()
        return " ".join(islice(cycle(words[: rng.randint(1, 8)]), max(12, len(words))))

    def collapse(text: str) -> str:
        words = text.split()
        head = words[: max(3, len(words) // 4)]
        return " ".join([*head, *islice(cycle(head[-rng.randint(1, 3) :]), max(12, len(words)))])

    return {f.__name__: f for f in (words_shuffled, letters_replaced, random_characters, salad, loop, collapse)}


def calibrate(real: Quantities, mismatched: Quantities) -> dict[str, float]:
    """The limits: see the module."""
    limits = {name: float(np.quantile(values_N, LOST)) for name, values_N in real.items()}
    candidates = np.sort(np.concatenate([real["topic"], mismatched["topic"]]))
    gap = [abs((real["topic"] < c).mean() - (mismatched["topic"] >= c).mean()) for c in candidates]
    return limits | {"topic": float(candidates[int(np.argmin(gap))])}


def kept(found: Quantities, limits: Mapping[str, float]) -> float:
    """Share of answers within every limit."""
    return float(np.logical_and.reduce([found[name] >= limit for name, limit in limits.items()]).mean())


def main() -> None:
    from sklearn.metrics import roc_auc_score

    parser = argparse.ArgumentParser(description="Calibrate the coherence judge.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HEAD)
    arguments = parser.parse_args()
    rng = random.Random(0)
    answers = real_answers(arguments.data_dir, rng, n=420)
    half = len(answers) // 2
    mismatched = [replace(a, prompt=b.prompt) for a, b in zip(answers, answers[1:] + answers[:1], strict=True)]
    limits = calibrate(quantities(answers[:half]), quantities(mismatched[:half]))
    limits = {name: round(limit, 3) for name, limit in limits.items()}

    held_out, beside = quantities(answers[half:]), quantities(mismatched[half:])
    topics = np.concatenate([held_out["topic"], beside["topic"]])
    measured = {"topic_auc": roc_auc_score(np.arange(len(topics)) < len(held_out["topic"]), topics)}
    for source in ("labelled", "benign"):
        mine_N = np.array([answer.topic == source for answer in answers[half:]])
        measured[f"kept:{source}"] = kept({name: values_N[mine_N] for name, values_N in held_out.items()}, limits)
    measured["caught:mismatched"] = 1 - kept(beside, limits)
    vocabulary = [word for answer in answers for word in answer.output.split()]
    sample = answers[half : half + 150]
    for name, broken in corruptions(vocabulary, rng).items():
        found = quantities([replace(answer, output=broken(answer.output)) for answer in sample])
        measured[f"caught:{name}"] = 1 - kept(found, limits)
    measured = {name: round(float(value), 3) for name, value in measured.items()}
    print("limits:", limits)
    print("on the other half:", *(f"{name} {value}" for name, value in measured.items()), sep="\n  ")

    files = (LABELS, *BENIGN)
    head = {
        "encoder": ENCODER,
        "calibrated_on": {
            name: hashlib.sha256((arguments.data_dir / name).read_bytes()).hexdigest() for name in files
        },
        "answers": half,
        "measured": measured,
        "limits": limits,
    }
    arguments.out.write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
    print("written to", arguments.out)


def _benign(row: Mapping[str, Any]) -> Answer:
    task = {**row, **row["instances"][0]} if "instances" in row else row
    prompt = f"{row['instruction']}\n{task.get('input') or ''}".strip()
    return Answer(str(row.get("id", "")), prompt, task.get("output") or task["response"], topic="benign")


if __name__ == "__main__":
    main()
