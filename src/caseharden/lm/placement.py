"""Placement: where a model's weights lie, whole on one device or sharded over processes, and what sums come to.

Every process of a sharded run does the same, with the same seeds: what is not shared out is done by each, and comes
to the same. What is shared out is a batch, part by part: each process takes some of the parts, and counts them
`world`-fold. FSDP2 takes the mean of the processes' gradients, and `Placement.mean` that of their sums; so what is
shared out adds up to the whole batch's, and what is not stays what it is.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import tensor as dtensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from caseharden.errors import CasehardenError, NotSharded
from caseharden.lm.structure import layers

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
Read = Callable[[], tuple[Any, Any]]
"""Reads a model and its tokenizer."""


class Placement:
    """Weights whole on one device, of the only process. `Sharded` is the other one."""

    rank = 0
    world = 1

    # ---- weights ------------------------------------------------------------------------------------

    def load(self, read: Read, device: torch.device) -> tuple[Any, Any]:
        """The model and the tokenizer that `read` reads, its weights where they belong."""
        model, tokenizer = read()
        return model.to(device), tokenizer

    def copy(self, model: M) -> M:
        """A copy of a Transformers model, its weights placed alike."""
        return copy.deepcopy(model)

    def gather(self, model: nn.Module) -> Mapping[str, Tensor]:
        """A model's state, whole, to be written: in a sharded run on the CPU, and of the first process alone."""
        return model.state_dict()

    def place(self, module: nn.Module) -> None:
        """Place what a module has of its own, around a model that is placed."""

    def adapt(self, model: nn.Module) -> None:
        """Have every process train the same of adapters, which have been put into a placed model and are whole."""

    def refuse(self, what: str, why: str) -> None:
        """Raise `NotSharded` for `what` cannot be done over several processes."""

    def merge(self, model: Any) -> Any:
        """The model that PEFT's `model` has been made of, its adapters merged into the weights."""
        return model.merge_and_unload()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor without values, for what was sharded when it was saved."""
        return torch.empty(tuple(shape), dtype=dtype)

    # ---- a batch's parts ----------------------------------------------------------------------------

    def portion(self, number: int, most: int | None = None) -> int:
        """How many of `number` examples to take at a time: as many as make a part for each process, or `most`."""
        return min(most or number, -(-number // self.world))

    def mine(self, parts: Iterable[T]) -> Iterator[tuple[T, int]]:
        """The parts of a batch that this process takes, each with how often it counts: here all, once.

        Every process gets as many, since all have to go through the model together. One that is short of a part
        gets another's, which counts 0 times.
        """
        return ((part, 1) for part in parts)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over the processes."""
        return [*values]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes of tensors that each has whole."""
        return tensor

    # ---- one for all --------------------------------------------------------------------------------

    def agree(self, value: T) -> T:
        """The first process's value, for what clocks or rounding may make different."""
        return value

    def once(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, which alone does it; in all of them, as is what it raises."""
        return work()


ALONE = Placement()


class Sharded(Placement):
    """Weights of which each process of the torch.distributed group holds a part, layer by layer (FSDP2)."""

    def __init__(self, kind: str) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.mesh = init_device_mesh(kind, (self.world,))

    def load(self, read: Read, device: torch.device) -> tuple[Any, Any]:
        """The first process reads, on the CPU, and the others get the weights from it, one layer at a time."""
        found: list[Any] = []

        def first() -> tuple[Any, ...]:
            model, tokenizer = read()
            found.append(model)
            return type(model), model.config, getattr(model, "generation_config", None), tokenizer

        kind, config, generation, tokenizer = self.once(first)
        model = found[0] if found else _hollow(kind, config)
        model.generation_config = generation
        self._shard(model, device, lambda tensor: dist.broadcast(tensor, 0))
        return model, tokenizer

    def copy(self, model: M) -> M:
        twin = _hollow(type(model), model.config)
        self._shard(twin, next(model.parameters()).device)
        with torch.no_grad():
            for mine, theirs in zip(_tensors(twin), _tensors(model), strict=True):
                mine.copy_(theirs)
        return cast(M, twin.train(model.training))

    def _shard(self, model: Any, device: torch.device, fill: Callable[[Tensor], object] = id) -> None:
        """Shard `model`, layer by layer, after its tensors are on the device and have been filled."""
        for module in [*layers(model), model]:
            for tensor in _tensors(module):
                if not isinstance(tensor, DTensor):
                    tensor.data = tensor.data.to(device)
                    fill(tensor.data)
            # At all times but in a pass the parameters that the model has are the sharded ones: the root's as well.
            fully_shard(module, mesh=self.mesh, reshard_after_forward=True)

    def gather(self, model: nn.Module) -> Mapping[str, Tensor]:
        own = dict(model.named_parameters(remove_duplicate=False))
        known: dict[int, Tensor] = {}
        found = {}
        for name, tensor in model.state_dict().items():  # one at a time, so that no device ever has all of them
            same = id(own.get(name, tensor))  # two names of one tensor stay so
            if same not in known:
                full = whole(tensor)
                known[same] = full.cpu() if self.rank == 0 else full.new_empty(0)
            found[name] = known[same]
        return found

    def place(self, module: nn.Module) -> None:
        fully_shard(module, mesh=self.mesh, reshard_after_forward=True)

    def adapt(self, model: nn.Module) -> None:
        for _, _, parameter in _whole_ones(model):
            parameter.register_hook(lambda gradient: self.sum(gradient) / self.world)  # type: ignore[no-untyped-call]

    def refuse(self, what: str, why: str) -> None:
        raise NotSharded(f"{what} cannot be sharded over {self.world} processes: {why}. Run it in one.")

    def merge(self, model: Any) -> Any:
        for module, name, parameter in [*_whole_ones(model)]:  # to be added to weights that are sharded
            setattr(module, name, nn.Parameter(DTensor.from_local(parameter.data, self.mesh)))
        return model.merge_and_unload()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return dtensor.empty(*shape, dtype=dtype, device_mesh=self.mesh, placements=[Shard(0)])

    def mine(self, parts: Iterable[T]) -> Iterator[tuple[T, int]]:
        dealt = [*parts]
        for start in range(0, len(dealt), self.world):
            place = start + self.rank
            yield (dealt[place], self.world) if place < len(dealt) else (dealt[start], 0)

    def mean(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor([*values], dtype=torch.float64)
        dist.all_reduce(total)
        found: list[float] = (total / self.world).tolist()
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def agree(self, value: T) -> T:
        if isinstance(value, Tensor):
            value = cast(T, value.contiguous())
            dist.broadcast(cast(Tensor, value), 0)
            return value
        box = [value]
        dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def once(self, work: Callable[[], T]) -> T:
        result: T | None = None
        error: Exception | None = None
        if self.rank == 0:
            try:
                found = work()
                pickle.dumps(found)
                result = found
            except Exception as raised:  # noqa: BLE001 - all have to go on, or to fail, together
                error = _to_be_sent(raised)
        result, error = self.agree((result, error))
        if error is not None:
            raise error
        return cast(T, result)


def _to_be_sent(error: Exception) -> Exception:
    """An error as other processes can read it, since those that could not would wait for it for ever."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever an error of others is made of
        return CasehardenError(f"{type(error).__name__}: {error}")
    return error


@cache
def _sharded(kind: str) -> Placement:
    return Sharded(kind)


def here(device: torch.device) -> Placement:
    """Where the models of this process lie: sharded, if it is one of several (`torchrun`), and else whole."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _sharded(device.type) if several else ALONE


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this process may hold a part. Every process has to ask.

    Before a number is taken of one (`float`): that would be the part's.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor that every process has whole, placed as `other` is: each keeps its part of it."""
    if not isinstance(other, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def placed_in(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of `model`, by name, each tensor placed as the model's own."""
    own = model.state_dict()
    return {name: placed_like(value, own[name]) if name in own else value for name, value in state.items()}


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _whole_ones(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Parameters of which every process has all, with the module that each is in and its name there."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                yield module, name, parameter


def _hollow(cls: Any, config: Any) -> Any:
    """A model whose weights have no values yet, and take no memory until they get some."""
    with torch.device("meta"):
        model = cls(copy.deepcopy(config))
    model.to_empty(device="cpu")
    model.tie_weights()
    return model.eval()
