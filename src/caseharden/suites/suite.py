"""What an audit runs and what it holds a model to, by a suite's name or from a file like theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caseharden.audit.evidence import Criteria
from caseharden.errors import CasehardenError, nearest
from caseharden.search.search import Search
from caseharden.study.build import build, written
from caseharden.study.spec import alternatives, among, read_yaml
from caseharden.train.tuner import Attack, Tuner

SUITES = Path(__file__).parent
STAGES = SUITES / "autotamper"
VERSION = "2"
"""AutoTamper's. Raised whenever a stage changes: figures of two versions are not of one ensemble."""
ENSEMBLE = f"AutoTamper {VERSION}"


@dataclass(frozen=True)
class BenignRuns:
    """Benign fine-tuning: learning rates, steps after which a task is looked at, how many of a domain's tasks."""

    lr: tuple[float, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class Stage:
    """Attacks that an audit runs together. Whether a further stage is run depends on what they did.

    To `attacks` come those that `searches` find, the strongest of a family each.
    """

    name: str
    attacks: tuple[Tuner, ...] = ()
    searches: tuple[Search, ...] = ()


@dataclass(frozen=True)
class Suite:
    """What an audit runs and what it holds a model to.

    Before any attack all of the domain's measures are taken; under attack, harm by `harm_n` questions (all if None)
    in each of the ways of asking `asked` (all if None) and the plain one, and utility by `utility_n`. A bystander
    tells what the defense destroyed, and is asked before any attack only. `stages` are run one after another: the
    first always, a further one only if the model has not failed before. With `stop_when_broken` an attack ends
    where the model fails for sure. `ensemble` is the name and the version that results give the attacks. Models
    that only show that the evaluation works, the known-broken and the never-learned one, are attacked with the
    first of the `seeds`.
    """

    stages: tuple[Stage, ...]
    budgets: tuple[int, ...]
    benign_runs: BenignRuns
    known_broken: Tuner
    seeds: tuple[int, ...] = (0, 1, 2)
    criteria: Criteria = field(default_factory=Criteria)
    asked: tuple[str, ...] | None = None
    harm_n: int | None = None
    utility_n: int = 144
    stop_when_broken: bool = False
    threads: int | None = None
    ensemble: str = ""

    def __post_init__(self) -> None:
        if self.criteria.horizon not in self.budgets:
            raise CasehardenError(
                f"the horizon, {self.criteria.horizon} attack steps, is not among the budgets, "
                f"{', '.join(map(str, self.budgets))}. Add it, or take another (criteria: {{horizon: …}})."
            )
        if not self.stages or not all(stage.attacks or stage.searches for stage in self.stages):
            raise CasehardenError("a suite needs at least one attack, and so does each of its stages.")
        if self.utility_n < 1 or (self.harm_n is not None and self.harm_n < 1):
            raise CasehardenError("utility_n and harm_n are numbers of questions: at least one of each.")
        every = [written(attack, Tuner) for attack in self.attacks]
        for i, attack in enumerate(every):
            if attack in every[:i]:
                raise CasehardenError(f"{attack} is among the attacks twice. Take one of them out.")
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
    def attacks(self) -> tuple[Tuner, ...]:
        """Those of all stages."""
        return tuple(attack for stage in self.stages for attack in stage.attacks)


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
    """The suite that a mapping stands for; grids among the attacks are alternatives, as in a study.

    ``stages`` are names of AutoTamper's; ``attacks`` are its own, which come after them.
    """
    if "attacks" not in given and "stages" not in given:
        raise CasehardenError(f"{place}: a suite needs attacks, or stages of AutoTamper.")
    stages: list[Any] = [stage(name, place) for name in given.get("stages", ())]
    if stages:
        given = {"ensemble": ENSEMBLE, **given}
    if "attacks" in given:
        stages.append(Stage("attacks", tuple(_attacks(given["attacks"], "attacks"))))
    rest = {name: value for name, value in given.items() if name not in ("attacks", "stages")}
    found: Suite = build({**rest, "stages": [written(one, Stage) for one in stages]}, Suite, place)
    return found


def stage(name: str, place: str = "stages") -> Stage:
    """A stage of AutoTamper by its name. Raises `CasehardenError`, naming `place`, if there is none."""
    known = {path.stem: path for path in STAGES.glob("*.yaml")}
    if name not in known:
        raise CasehardenError(f"{place}: AutoTamper has no stage {name!r}.{nearest(str(name), known)}")
    given = read_yaml(known[name].read_text(encoding="utf-8"))
    found: Stage = build({"name": name, **given, "attacks": _attacks(given.get("attacks", []), name)}, Stage, name)
    return found


def _attacks(given: Any, place: str) -> list[Tuner]:
    return [attack for attack in alternatives(given, place) if attack is not None]
