"""What an audit runs: the studies of a suite, and the evidence that comes out of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caseharden.audit.evidence import Criteria
from caseharden.errors import CasehardenError, nearest
from caseharden.study.build import build
from caseharden.study.spec import alternatives, among, read_yaml
from caseharden.train.tuner import Attack, Tuner

SUITES = Path(__file__).parent


@dataclass(frozen=True)
class BenignRuns:
    """Benign fine-tuning: learning rates, steps after which a task is looked at, how many of a domain's tasks."""

    lr: tuple[float, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class Suite:
    """What an audit runs and what it holds a model to.

    Before any attack all of the domain's measures are taken; under attack, harm, and utility on `utility_n`
    questions. A bystander tells what the defense destroyed, and is asked before any attack only. With
    `stop_when_broken` an attack ends where the model fails for sure.
    """

    attacks: tuple[Tuner, ...]
    budgets: tuple[int, ...]
    benign_runs: BenignRuns
    known_broken: Tuner
    seeds: tuple[int, ...] = (0, 1, 2)
    criteria: Criteria = field(default_factory=Criteria)
    utility_n: int = 144
    stop_when_broken: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.criteria.horizon not in self.budgets:
            raise CasehardenError(
                f"the horizon, {self.criteria.horizon} attack steps, is not among the budgets, "
                f"{', '.join(map(str, self.budgets))}. Add it, or take another (criteria: {{horizon: …}})."
            )
        if not self.attacks or self.utility_n < 1:
            raise CasehardenError("a suite needs at least one attack and one question of utility (utility_n).")
        silent = [part for part in among(self.attacks, Tuner) if not isinstance(part, Attack)]
        if silent:
            raise CasehardenError(
                f"{type(silent[0]).__name__} does not say which of its fields are learning rates, so an audit "
                "cannot tell a grid of it from other attacks. Give the class `rates`, `bounds` and `mixes` (see "
                "CONTRIBUTING.md, Adding an attack); empty ones if it has no such fields."
            )
        if len(self.benign_runs.seeds) < 2 or self.benign_runs.tasks == 0:
            raise CasehardenError("benign_runs needs at least two seeds and one task: of fewer no verdict comes.")

    @property
    def readings(self) -> int:
        """How many readings of harm each model is to get: as released, and at each budget of every run."""
        return 1 + len(self.attacks) * len(self.seeds) * (len(self.budgets) - 1)


def suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return {path.stem: path for path in sorted(SUITES.glob("*.yaml"))}


def load(name: str) -> Suite:
    """A suite by its name, or from a file. Raises `CasehardenError` if there is none, or it is wrong."""
    path = suites().get(name, Path(name))
    if not os.path.isfile(path):  # a name that is too long for a path is no file either
        raise CasehardenError(f"there is no suite {name!r}, and no such file.{nearest(name, suites())}")
    try:
        given = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, CasehardenError) as error:
        raise CasehardenError(f"cannot read the suite {path}: {error}") from error
    if not isinstance(given, dict):
        raise CasehardenError(f"{path.name}: a suite is a mapping with at least attacks, budgets and benign_runs.")
    return parse(given, path.name)


def parse(given: Mapping[str, Any], place: str) -> Suite:
    """The suite that a mapping stands for; grids among the attacks are alternatives, as in a study."""
    if "attacks" not in given:
        raise CasehardenError(f"{place}: a suite needs attacks.")
    attacks = list(alternatives(given["attacks"], "attacks"))
    found: Suite = build({**given, "attacks": attacks}, Suite, place)
    return found
