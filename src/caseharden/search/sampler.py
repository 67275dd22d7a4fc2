"""What to try next, by what was tried: Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from caseharden.search.space import Choice, Range, Space, Values


@dataclass(frozen=True)
class Tried:
    """Values that were tried, and their score at each rung that they came to; of one that failed, why.

    `last` is the number of rungs: what did not come to the last, and has not failed, was pruned.
    """

    values: Values
    scores: Sequence[float]
    last: int
    failure: str = ""

    @property
    def state(self) -> TrialState:
        if self.failure:
            return TrialState.FAIL
        return TrialState.COMPLETE if len(self.scores) == self.last else TrialState.PRUNED


def propose(
    space: Space,
    tried: Sequence[Tried],
    number: int,
    *,
    seed: int,
    startup: int,
    first: Values | None = None,
) -> list[Values]:
    """The next `number` of values to try together, the same for the same arguments.

    Random ones until `startup` have been tried that did not fail. Of those of one call, each knows what the
    others are, and takes it for bad: so they differ. `first` is tried as it is, before any others.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=seed % 2**32
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_trial(space, one) for one in tried])
    if first is not None:
        study.enqueue_trial(dict(first))
    return [_asked(space, study.ask()) for _ in range(number)]


def _asked(space: Space, trial: optuna.Trial) -> Values:
    values: dict[str, float] = {}

    def ask(one: Range | Choice) -> float:
        if isinstance(one, Choice):
            value: float = trial.suggest_categorical(one.place, [*range(len(one.options))])
        elif one.scale == "whole":
            value = trial.suggest_int(one.place, int(one.low), int(one.high))
        else:
            value = trial.suggest_float(one.place, one.low, one.high, log=one.scale == "log_uniform")
        values[one.place] = one.rounded(value) if isinstance(one, Range) else value
        return values[one.place]

    space.fill(ask)
    return values


def _trial(space: Space, tried: Tried) -> FrozenTrial:
    return create_trial(
        state=tried.state,
        value=tried.scores[-1] if tried.state == TrialState.COMPLETE else None,
        params=dict(tried.values),
        distributions=_distributions(space, tried.values),
        intermediate_values=dict(enumerate(tried.scores)),
    )


def _distributions(space: Space, values: Values) -> dict[str, BaseDistribution]:
    return {place: _distribution(one) for place, one in space.met(values).items()}


def _distribution(one: Range | Choice) -> BaseDistribution:
    if isinstance(one, Choice):
        return CategoricalDistribution([*range(len(one.options))])
    if one.scale == "whole":
        return IntDistribution(int(one.low), int(one.high))
    return FloatDistribution(one.low, one.high, log=one.scale == "log_uniform")
