"""Tuner, which changes a model's weights one optimizer step at a time, and Run, what it works on."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from peft import PeftModel
from torch import nn
from torch.optim import Optimizer

from caseharden.data.example import Example
from caseharden.data.pools import Pools, Role, pool
from caseharden.data.stream import Stream, derive_seed
from caseharden.engines.engine import Engine
from caseharden.engines.native import Native
from caseharden.errors import DIVERGED, CasehardenError, TrainingFailed
from caseharden.lm import sources
from caseharden.lm.lm import LM
from caseharden.lm.placement import placed_in
from caseharden.lm.structure import has_dropout
from caseharden.train.adapters import BelowAdapters, LoRA
from caseharden.train.masters import Masters
from caseharden.train.optim import Descent, evaluation_weights, release
from caseharden.train.scopes import Scope, scoped

Metrics = dict[str, float]
"""What one step reports.

``loss`` is always among it; ``examples``, where a tuner says how many it has trained on or tried, repeats
counted; ``tokens`` and ``tokens_read`` are added by `Run.drive`.
"""

T = TypeVar("T")


@runtime_checkable
class Tuner(Protocol):
    """An attack or a defense. The object is its own configuration: a frozen dataclass."""

    def steps(self, run: Run) -> Iterator[Metrics]:
        """Change `run.lm`'s weights, one optimizer step for each `next()`."""
        ...


@runtime_checkable
class Attack(Tuner, Protocol):
    """A tuner that says in class attributes what its fields mean to an attacker. An audit runs no other attacks.

    Attacks that differ in nothing but `rates` are one attack, of which the best rate counts. Fields of tuners
    within it (a chain's stages) count as its own.
    """

    rates: ClassVar[tuple[str, ...]]
    """Fields that are learning rates."""
    bounds: ClassVar[tuple[str, ...]]
    """Fields that hold an attacker back: None is no bound, and of two numbers the smaller is the weaker."""
    mixes: ClassVar[tuple[str, ...]]
    """Fields that weigh the pools which it trains on."""


@runtime_checkable
class NamesModels(Protocol):
    """A tuner that says which of its fields name a model besides the one it works on: its weights decide, too."""

    other_models: ClassVar[tuple[str, ...]]


def end_of(tuner: Tuner) -> int | None:
    """The step after which nothing is left for a tuner to do, so that later budgets say nothing more of it.

    None for fine-tuning, which might go on where `max_steps` ends it. A tuner says by an attribute
    `ends_by_itself` that it might not.
    """
    end: int | None = getattr(tuner, "max_steps", None)
    return end if getattr(tuner, "ends_by_itself", False) else None


class Counter:
    """A number that survives a crash when tracked."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.value = state["value"]


def _versions(model: nn.Module) -> list[int]:
    """How often each parameter was changed in place, so that what a tuner changes before it trains is noticed."""
    return [parameter._version for parameter in model.parameters()]


class Trained:
    """What of a model has to survive a crash when tracked: all but parameters that stay as they are `loaded`."""

    def __init__(self, model: nn.Module, *, loaded: bool) -> None:
        self.model = model
        parameters = model.named_parameters(remove_duplicate=False)
        self.fixed = {name for name, p in parameters if loaded and not p.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.model.state_dict().items() if name not in self.fixed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises `CasehardenError` if `state` is that of another part of the model."""
        missing, unexpected = self.model.load_state_dict(placed_in(self.model, state), strict=False)
        if unexpected or not self.fixed.issuperset(missing):
            raise CasehardenError("the saved weights are not those that this run trains. Delete the checkpoint.")
        self.fixed = {*missing}


class Run:
    """What a tuner works on: the LM, the data its role may see, its seeds, and what must survive a crash.

    A tuner resumes exactly if it counts its steps with `run.range`, draws data from `run.stream` or
    randomness from `run.seed_for(purpose, step)`, and registers whatever else has state with `run.track`.
    """

    def __init__(
        self,
        lm: LM,
        domain: Pools,
        role: Role,
        seed: int,
        *,
        share: tuple[int, int] = (0, 1),
        engine: Engine | None = None,
    ) -> None:
        self.lm = lm
        self.domain = domain
        self.role: Role = role
        self.seed = seed
        self.share = share
        self.engine: Engine = engine or Native()
        self.step = 0
        self.parent: Run | None = None
        self._versions = _versions(lm.model)
        self._tracked: dict[str, Any] = {}
        self._pending: dict[str, Any] = {}

    # ---- data and randomness ------------------------------------------------------------------------

    def pool(self, name: str) -> Sequence[Example]:
        """One pool of the domain, as far as this run's role, and its share of it, may see it."""
        part, parts = self.share
        examples = pool(self.domain, self.role, name)
        return [e for e in examples if derive_seed(0, e.group or e.id) % parts == part] if parts > 1 else examples

    def split(self, parts: int) -> list[Run]:
        """This run `parts` times, each with a part of every pool that is held out from the others, by group."""
        part, of = self.share
        runs = [copy.copy(self) for _ in range(parts)]
        for i, run in enumerate(runs):
            run.share = (part + of * i, of * parts)  # the rest by of·parts: a part of this part, if it is one
        return runs

    def stream(
        self,
        mix: Mapping[str, float],
        batch_size: int,
        *,
        max_length: int | None = None,
        n_examples: int | None = None,
        answered: bool = True,
    ) -> Stream:
        """Batches mixed from this role's pools; `n_examples` keeps only so many of each pool, by seed.

        Raises `CasehardenError` if an example has no completion, since training on it would teach silence,
        or a prompt that leaves none of `max_length` tokens for one: now, and not hours into the training.
        Where the model writes the answers itself, completions are not `answered` for.
        """
        pools = {}
        for name in mix:
            examples = self.pool(name)
            if bare := [example.id for example in examples if answered and not example.completion]:
                raise CasehardenError(
                    f"{len(bare)} examples of pool {name!r} have no completion to learn ({bare[0]!r} first). Give "
                    "the source completions, or name another pool (openers, for prompts without completions)."
                )
            if max_length is not None:
                self.lm.check_prompts(examples, f"pool {name!r}", max_length=max_length)
            if n_examples is not None:
                shuffled = Stream({name: examples}, {name: 1.0}, len(examples), self.seed_for("subset"))[0]
                examples = shuffled[:n_examples]
            pools[name] = examples
        return Stream(pools, mix, batch_size, self.seed_for("stream"))

    def seed_for(self, *purpose: object) -> int:
        """A seed of its own for each purpose, the same in every run with this run's seed."""
        return derive_seed(self.seed, *purpose)

    # ---- what a tuner declares ----------------------------------------------------------------------

    def trainable(self, lora: LoRA | None = None, scope: Scope | None = None) -> list[nn.Parameter]:
        """Declare what is trained: all parameters, those in a `scope`, or adapters that are put in for it.

        Call this first. Raises `CasehardenError` if the model has no parameter in the scope.
        """
        model = self.lm.model
        if (lora and lora.dropout) or has_dropout(model):
            self.lm.placement.refuse("dropout", "it is drawn by forward passes. Set it to 0 (`lora`, config.json)")
        if scope is not None:
            inside = {id(parameter) for parameter in scoped(model, scope)}
            for parameter in model.parameters():
                parameter.requires_grad_(id(parameter) in inside)
        elif lora is None:
            model.requires_grad_(True)
        # a stage of a chain begins with what the stages before have made, which is in no folder
        loaded = self.parent is None and _versions(self.lm.model) == self._versions
        if lora is not None:
            with self.lm.seeded(self.seed_for("adapters")):
                self.lm.model = model = lora.on(model)
            self.lm.placement.adapt(model)
        self.track("model", Trained(model, loaded=loaded))
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def reference(self) -> LM:
        """The model as it stands before the tuner's first step, frozen, kept through a resume.

        A copy of it; once adapters are put in (`trainable`), the model below them, which needs none.
        """
        if "reference" not in self._tracked:
            adapted = isinstance(self.lm.model, PeftModel)
            self.track("reference", BelowAdapters.of(self.lm) if adapted else self.lm.frozen_copy())
        return cast(LM, self._tracked["reference"])

    def original(self) -> LM:
        """A frozen copy of the model as it stood before the first stage of the chain that this run is a stage of.

        Raises `CasehardenError` unless the chain has kept it. Of a run that is no stage, its `reference`.
        """
        if self.parent is None:
            return self.reference()
        if "reference" not in self.parent._tracked:
            raise CasehardenError("a stage is to stay near the original model. Give the chain keep_original: true.")
        return self.parent.reference()

    def other(self, name: str) -> LM:
        """Another model, called `name` as in a spec, frozen, on this one's device; tokens count with this one's.

        A tuner says in `other_models` which of its fields name one.
        """
        mine = self.lm
        folder = sources.resolve(name)
        how = {name: getattr(mine, name) for name in ("precision", "reasoning", "memory", "placement")}
        other = LM.load(folder, device=mine.device, **how)
        other.model.requires_grad_(False)
        other.meter = mine.meter
        return other

    def track(self, name: str, thing: T) -> T:
        """Register `thing` (with state_dict and load_state_dict) to be saved, and restored on resume."""
        if name in self._tracked:
            raise CasehardenError(f"two things are tracked under the name {name!r} in one run.")
        self._tracked[name] = thing
        if name in self._pending:
            state = self._pending.pop(name)
            state = placed_in(thing, state) if isinstance(thing, nn.Module) else state
            thing.load_state_dict(state)  # type: ignore[attr-defined]
        return thing

    def child(self, name: str) -> Run:
        """A run on the same model, data and role with seeds and steps of its own, saved with this one."""
        child = self.track(name, self.afresh("child", name))
        child.parent = self
        return child

    def afresh(self, *purpose: object) -> Run:
        """A run on the same model, data, role and engine with seeds and steps of its own, and nothing tracked."""
        seed = self.seed_for(*purpose)
        return type(self)(self.lm, self.domain, self.role, seed, share=self.share, engine=self.engine)

    def release(self, name: str) -> None:
        """Forget what was tracked under `name`: it is over and need not survive a crash."""
        del self._tracked[name]

    def range(self, stop: int | None) -> Iterable[int]:
        """Step numbers from where the run stands up to `stop`; without end if that is None."""
        return range(self.step, stop) if stop is not None else count(self.step)

    # ---- for the caller -----------------------------------------------------------------------------

    def drive(self, tuner: Tuner) -> Iterator[Metrics]:
        """`tuner`'s steps, counted and checked: a loss or a gradient that is not finite raises `TrainingFailed`.

        Each step draws PyTorch's random numbers (dropout) from a seed of its own, so that a resumed run
        draws the same. To what the tuner reports come ``tokens`` and ``tokens_read``: real tokens that went
        through the model in this step with gradient and without, those of references included. What the
        caller does between two steps is not counted.
        """
        steps = tuner.steps(self)
        while True:
            before = self.lm.meter.tokens
            with self.lm.seeded(self.seed_for("step", self.step)):
                metrics = next(steps, None)
            if metrics is None:
                return
            self.step += 1
            for name in ("loss", "grad_norm"):
                if not math.isfinite(metrics.get(name, 0.0)):
                    raise TrainingFailed(
                        f"the {name} became {metrics[name]} at step {self.step} of {tuner}. {DIVERGED}"
                    )
            spent = self.lm.meter.tokens - before
            yield {**metrics, "tokens": spent.trained, "tokens_read": spent.read}

    @contextmanager
    def evaluating(self) -> Iterator[LM]:
        """The model as it would be released at this step; the run goes on afterwards as if never looked at.

        Raises `TrainingFailed` if its weights are not finite: such a model says nothing, harmful or not.
        """
        with evaluation_weights(self._optimizers()):
            self.lm.check_finite()
            yield self.lm

    def finish(self) -> LM:
        """Settle the weights for release: averages taken over, adapters merged. The run ends here."""
        release(self._optimizers())
        if isinstance(self.lm.model, PeftModel):
            self.lm.model = self.lm.placement.merge(self.lm.model)
        self.lm.model.eval()
        self.lm.check_finite()
        return self.lm

    def _optimizers(self) -> Iterator[tuple[Optimizer, Masters | None]]:
        for thing in self._tracked.values():
            if isinstance(thing, Run):
                yield from thing._optimizers()
            elif isinstance(thing, Descent):
                yield thing.optimizer, thing.masters
            elif isinstance(thing, Optimizer):
                yield thing, None

    def state_dict(self) -> dict[str, Any]:
        """Everything that this run needs to go on exactly where it stands."""
        return {
            "step": self.step,
            "tracked": {name: thing.state_dict() for name, thing in self._tracked.items()} | self._pending,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken. Must come before the tuner's first step."""
        if self._tracked:
            raise CasehardenError("a run can only be resumed before its first step.")
        self.step = state["step"]
        self._pending = dict(state["tracked"])
