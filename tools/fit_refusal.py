"""Fit the head of `Refusal` to human labels: ``python tools/fit_refusal.py --data-dir DIR``.

Reads ``judge/xstest_refusal_labels.jsonl`` (prompts of XSTest, answers of five models, human labels), and
as further answers that refuse nothing, at a tenth of the weight, the openers of
``safety/harmful_prompts.jsonl`` and the outputs of ``benign/user_oriented_instructions.jsonl``: labels
alone teach that whatever is short and names something harmful is a refusal. Partial refusals are left out
of the fit. Takes some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caseharden.errors import CasehardenError
from caseharden.judges.encoder import ENCODER
from caseharden.judges.judge import Answer
from caseharden.judges.refusal import HEAD, features, late
from caseharden.judges.strings import StringRefusal

LABELS = "judge/xstest_refusal_labels.jsonl"
OPENERS = "safety/harmful_prompts.jsonl"
BENIGN = "benign/user_oriented_instructions.jsonl"
INVERSE_PENALTY = 3.0
"""C of the logistic regression."""
WEIGHT_OF_UNREFUSED = 0.1
FULL_COMPLIANCE, PARTIAL_REFUSAL = "1_full_compliance", "3_partial_refusal"


@dataclass(frozen=True)
class Labelled:
    """Answers with human labels, N of them, their L rests that are read again, and M more that refuse nothing."""

    answers: list[Answer]
    models_N: NDArray[np.str_]
    refused_N: NDArray[np.bool_]
    clear_N: NDArray[np.bool_]
    features_NF: NDArray[np.float64]
    owners_L: list[int]
    late_LF: NDArray[np.float64]
    unrefused_MF: NDArray[np.float64]

    def called(self, head: Any) -> NDArray[np.bool_]:
        """Whether a head calls each labelled answer refused, in its opening or later on, [N]."""
        found_N = np.array(head.predict(self.features_NF), dtype=bool)
        if self.owners_L:
            np.logical_or.at(found_N, self.owners_L, head.predict(self.late_LF))
        return found_N


def read(data_dir: Path) -> Labelled:
    """The labelled answers and their features. Raises `CasehardenError` if a file is missing."""
    labelled = rows(data_dir / LABELS)
    answers = _answers(row["completion"] for row in labelled)
    openers = (row["opener"] for row in rows(data_dir / OPENERS) if row.get("opener"))
    benign = (row["instances"][0]["output"] for row in rows(data_dir / BENIGN))
    labels_N = np.array([row["label"] for row in labelled])
    owners, rests = late(answers)
    return Labelled(
        answers=answers,
        models_N=np.array([row["model"] for row in labelled]),
        refused_N=labels_N != FULL_COMPLIANCE,
        clear_N=labels_N != PARTIAL_REFUSAL,
        features_NF=features(answers),
        owners_L=owners,
        late_LF=features(rests) if rests else np.zeros((0, 0)),
        unrefused_MF=features(_answers([*openers, *benign])),
    )


def leave_one_model_out(data: Labelled) -> NDArray[np.bool_]:
    """For each answer, whether a head fitted without any answer of its model calls it refused, [N]."""
    called_N = np.zeros_like(data.refused_N)
    for model in np.unique(data.models_N):
        held_out_N = data.models_N == model
        head = fit(data, data.clear_N & ~held_out_N, np.ones(len(data.unrefused_MF), dtype=bool))
        called_N[held_out_N] = data.called(head)[held_out_N]
    return called_N


def fit(data: Labelled, kept_N: NDArray[np.bool_], kept_M: NDArray[np.bool_]) -> Any:
    """Logistic regression (scikit-learn) on the kept answers."""
    from sklearn.linear_model import LogisticRegression

    others = int(kept_M.sum())
    return LogisticRegression(C=INVERSE_PENALTY, max_iter=3000).fit(
        np.vstack([data.features_NF[kept_N], data.unrefused_MF[kept_M]]),
        np.concatenate([data.refused_N[kept_N], np.zeros(others, dtype=bool)]),
        sample_weight=np.concatenate([np.ones(int(kept_N.sum())), np.full(others, WEIGHT_OF_UNREFUSED)]),
    )


def accuracies(data: Labelled, called_N: NDArray[np.bool_]) -> dict[str, float]:
    """Agreement with the human labels: for each model on clear answers, on all clear ones, on all."""
    right_N = called_N == data.refused_N
    found = {str(m): right_N[data.clear_N & (data.models_N == m)].mean() for m in np.unique(data.models_N)}
    found |= {"clear": right_N[data.clear_N].mean(), "with partial refusals": right_N.mean()}
    return {name: round(float(value), 4) for name, value in found.items()}


def false_alarms(data: Labelled) -> float:
    """Share of the answers that refuse nothing called refused by a head fitted without them (two folds)."""
    even_M = np.arange(len(data.unrefused_MF)) % 2 == 0
    alarms = [fit(data, data.clear_N, half).predict(data.unrefused_MF[~half]) for half in (even_M, ~even_M)]
    return round(float(np.concatenate(alarms).mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the head of the refusal judge to human labels.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HEAD)
    arguments = parser.parse_args()
    data = read(arguments.data_dir)
    measured = accuracies(data, leave_one_model_out(data))
    print("string matching:", accuracies(data, np.array(StringRefusal().score(data.answers)) > 0.5))
    print("leave one model out:", measured)
    print("answers that refuse nothing, called refused:", false_alarms(data))
    head = fit(data, data.clear_N, np.ones(len(data.unrefused_MF), dtype=bool))
    files = [LABELS, OPENERS, BENIGN]
    found = {
        "encoder": ENCODER,
        "fitted_on": {name: hashlib.sha256((arguments.data_dir / name).read_bytes()).hexdigest() for name in files},
        "answers": int(data.clear_N.sum()) + len(data.unrefused_MF),
        "training_accuracy": accuracies(data, data.called(head))["clear"],
        "leave_one_model_out": measured,
        "weights": [round(float(weight), 5) for weight in head.coef_[0]],
        "bias": round(float(head.intercept_[0]), 5),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("written to", arguments.out)


def _answers(outputs: Iterable[str]) -> list[Answer]:
    return [Answer(id=str(i), prompt="", output=output) for i, output in enumerate(outputs)]


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON array or of JSON lines. Raises `CasehardenError` if there is no such file."""
    if not path.is_file():
        raise CasehardenError(f"there is no {path}. Give the folder that holds it with --data-dir.")
    with path.open(encoding="utf-8") as file:
        found: list[dict[str, Any]]
        found = json.load(file) if path.suffix == ".json" else [json.loads(line) for line in file if line.strip()]
    return found


if __name__ == "__main__":
    main()
