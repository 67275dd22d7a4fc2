"""Architecture: a model by its configuration alone, what passes through it take, and its small twin."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from caseharden.cost.ledger import Ledger
from caseharden.errors import CasehardenError
from caseharden.lm.loading import loading
from caseharden.train.adapters import LoRA

NARROW: tuple[Mapping[str, int], ...] = (
    {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 24,
    },
    {"hidden_size": 48, "num_attention_heads": 2},
    {},
)
"""Sizes of a twin, in the words of configurations; the first that make a model are taken. The last are its own."""
SHAPES = {
    False: ((2, 16, 0, 2), (2, 48, 0, 8), (4, 32, 0, 24), (1, 64, 0, 32), (6, 80, 0, 5)),
    True: ((2, 1, 16, 1), (6, 1, 48, 1), (4, 16, 16, 8), (2, 8, 56, 8), (6, 24, 8, 2), (3, 40, 24, 30)),
}
"""Passes by which the coefficients of all are found, without anything cached before them and with it."""


class Variant(NamedTuple):
    """What kind of pass: with a gradient of what is `trained`, giving a cache, begun with one, through adapters."""

    grad: bool
    cache: bool
    begun: bool
    states: bool
    rank: int | None
    trained: frozenset[str]


class Pass(NamedTuple):
    """A batch through a model: `rows` of `width` tokens after `past` ones that are cached, `heads` logits each."""

    variant: Variant
    rows: int
    width: int
    past: int
    heads: int


def features(passes: Any) -> Any:
    """What a pass's cost is linear in, [n, 5], of [n, 4]: rows, width, past, heads."""
    B, T, S, R = numpy.asarray(passes, dtype=float).T
    return numpy.stack([numpy.ones_like(B), B * T, B * T * (T + S), B * R, B * (T + S)], -1)


@dataclass(frozen=True)
class Profile:
    """Coefficients, [5, 5], from `features` to operations, bytes moved, calls, bytes kept, and bytes at the most.

    Bytes kept are held when the pass is over: for the backward pass, or in the cache. Parameters, gradients and
    whatever is as wide as the vocabulary are left out of both.
    """

    coefficients: Any

    def of(self, passes: Any) -> Any:
        """[n, 5] of [n, 4]."""
        return (features(passes) @ self.coefficients).clip(min=0)


class Architecture:
    """A model whose weights are never read.

    `folder` has its configuration. Its twin has `depth` layers, or a few more, and is told from others' by its
    `number`. Where it is to `autocast`, passes compute in bfloat16.
    Raises `CasehardenError` if it is no causal language model that PyTorch can run without data.
    """

    def __init__(self, folder: Path, *, depth: int = 1, number: int = 0, autocast: bool = False) -> None:
        self.folder = folder
        self.autocast = autocast
        self.number = number
        with loading(folder):
            self.config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False).get_text_config()
            self.model = self.without_data(self.config)
        self.layers: int = self.config.num_hidden_layers
        self.depth = min(self.layers, self.period * math.ceil(depth / self.period))
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self._profiles: dict[Variant, Profile] = {}
        self._adapters: dict[int, int] = {}

    @staticmethod
    def without_data(config: Any) -> Any:
        """A model of shapes alone."""
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    @cached_property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in self.model.named_parameters()}

    @cached_property
    def largest(self) -> int:
        """Parameters of the largest part that is gathered at a time where they are sharded: a layer, or an end."""
        per_layer: dict[str, int] = {}
        for name, p in self.model.named_parameters():
            place = re.search(r"\.\d+\.", name)
            key = name[: place.end()] if place else name
            per_layer[key] = per_layer.get(key, 0) + p.numel()
        return max(per_layer.values())

    def adapters(self, rank: int) -> int:
        """Parameters of adapters on all linear layers."""
        if rank not in self._adapters:
            few, more = (
                sum(p.numel() for p in self.shaped(self.with_layers(n), rank).parameters() if p.requires_grad)
                for n in (2 * self.depth, 3 * self.depth)
            )
            self._adapters[rank] = round(self.extended(few, more))
        return self._adapters[rank]

    def extended(self, few: Any, more: Any) -> Any:
        """What grows with layers, of all, where it is known of twice `depth` of them and of three times as many.

        Of a first layer the most memory is less: none before it has left anything.
        """
        return few + (more - few) * (self.layers / self.depth - 2)

    def with_layers(self, number: int) -> Any:
        """Its configuration with fewer layers, the first ones."""
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = number
        if kinds := getattr(config, "layer_types", None):
            config.layer_types = kinds[:number]
        return config

    @cached_property
    def period(self) -> int:
        """After how many layers they are alike again."""
        kinds = list(getattr(self.config, "layer_types", None) or [""] * self.layers)
        return next(n for n in range(1, len(kinds) + 1) if kinds[n:] == kinds[:-n] or n == len(kinds))

    # ---- the twin -----------------------------------------------------------------------------------

    @cached_property
    def twin(self) -> Any:
        """A model as it, with data, of few layers and narrow ones: whatever is done to it is done to the model.

        Drawn from a seed of its own.
        """
        shallow = self.with_layers(self.depth)
        for sizes in NARROW:
            config = copy.deepcopy(shallow)
            for name, value in sizes.items():
                if getattr(config, name, None) is not None:
                    setattr(config, name, value * (1 if "heads" in name else 1 + self.number))
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
                with torch.no_grad():
                    model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
            except (RuntimeError, ValueError, AttributeError, TypeError, KeyError, IndexError, AssertionError):
                continue  # sizes that do not fit this architecture
            return model
        raise CasehardenError(f"{type(self.model).__name__} cannot be run, so what it costs cannot be told.")

    def place(self, name: str, layers: int, there: int) -> str:
        """The parameter of a model of `there` layers that stands where `name` does in one of `layers`."""
        return re.sub(r"(?<=\.)\d+(?=\.)", lambda found: str(int(found[0]) * there // layers), name, count=1)

    def bare(self, name: str) -> str:
        """A parameter's name as the model without its head has it: a critic is one."""
        return name.removeprefix(f"{self.model.base_model_prefix}.")

    def scales(self, twin: nn.Module) -> dict[tuple[int, ...], tuple[float, float]]:
        """By the shape of a twin's parameters: by how much more bytes and tensors of that kind the model has."""
        shapes = {name: tuple(p.shape) for name, p in twin.named_parameters()}
        own = _tally((shapes[name], p) for name, p in twin.named_parameters())
        few, more = (
            _tally(
                (shapes[there], p)
                for name, p in self.shaped(self.with_layers(n), rank_of(twin)).named_parameters()
                if (there := self.place(name, n, self.depth)) in shapes
            )
            for n in (2 * self.depth, 3 * self.depth)
        )
        whole = {shape: self.extended(few.get(shape, numpy.zeros(2)), found) for shape, found in more.items()}
        return {shape: tuple(whole[shape] / own[shape]) for shape in whole}

    # ---- what a pass takes --------------------------------------------------------------------------

    def shaped(self, config: Any, rank: int | None) -> Any:
        """A model without data, with adapters in it if they have a `rank`."""
        model = self.without_data(config)
        if rank is None:
            return model
        with torch.device("meta"), Ledger():
            return LoRA(r=rank).on(model)

    def profile(self, variant: Variant) -> Profile:
        """What passes of a kind take, found by running a few of them without data, on few layers of full width."""
        if variant not in self._profiles:
            few, more = (self._measured(variant, n) for n in (2 * self.depth, 3 * self.depth))
            found, *_ = numpy.linalg.lstsq(features(SHAPES[variant.begun]), self.extended(few, more), rcond=None)
            self._profiles[variant] = Profile(found)
        return self._profiles[variant]

    def _measured(self, variant: Variant, layers: int) -> Any:
        model = self.shaped(self.with_layers(layers), variant.rank)
        for name, p in model.named_parameters():
            p.requires_grad_(self.bare(self.place(name, layers, self.depth)) in variant.trained)
        return numpy.array([self._one(model, variant, shape) for shape in SHAPES[variant.begun]])

    def _one(self, model: Any, variant: Variant, shape: tuple[int, int, int, int]) -> list[float]:
        B, T, S, R = shape
        wide = {tuple(p.shape) for p in model.parameters()}
        common = {"use_cache": variant.cache, **({"output_hidden_states": True} if variant.states else {})}
        with torch.device("meta"), torch.set_grad_enabled(variant.grad), self._casting(), Flash():
            ids, mask = torch.zeros(B, T, dtype=torch.long), torch.ones(B, S + T, dtype=torch.long)
            begun = {}
            if S:
                before = torch.zeros(B, S, dtype=torch.long)
                with Ledger():
                    past = model(input_ids=before, attention_mask=torch.ones_like(before), use_cache=True)
                begun = {"past_key_values": past.past_key_values, "use_cache": True}
                del past
            with Held(lambda t: t.shape[-1:] != (self.vocabulary,), wide) as ledger:
                out = model(input_ids=ids, attention_mask=mask, logits_to_keep=R, **{**common, **begun})
                kept = ledger.held
                if variant.grad:
                    ledger.backward = True
                    out[0].sum().backward()
        for p in model.parameters():
            p.grad = None
        return [ledger.work.flops, ledger.work.traffic, ledger.work.calls, kept, ledger.most]

    @contextmanager
    def _casting(self) -> Iterator[None]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            yield


class Held(Ledger):  # type: ignore[no-untyped-call]
    """Counts what is held of the tensors that `of` says, gradients of parameters left out."""

    def __init__(self, of: Callable[[Tensor], bool], wide: set[tuple[int, ...]]) -> None:
        super().__init__()
        self.of, self.wide = of, wide
        self.backward = False
        self.held = self.most = 0

    def made(self, tensor: Tensor) -> Any:
        if not self.of(tensor) or (self.backward and tuple(tensor.shape) in self.wide):
            return None
        self.held += tensor.untyped_storage().nbytes()
        self.most = max(self.most, self.held)
        return True

    def given_back(self, kind: Any, size: int) -> None:
        self.held -= size


class Flash(TorchFunctionMode):
    """Attention as it is computed where there are data: without its probabilities in memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = (
            dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
        )
        q, k, v = (given[name] for name in ("query", "key", "value"))
        if given.get("enable_gqa"):
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attend(q, k, v, attn_mask=given.get("attn_mask"), scale=given.get("scale"))[0]


def _tally(parameters: Iterable[tuple[tuple[int, ...], nn.Parameter]]) -> dict[tuple[int, ...], Any]:
    """Elements and tensors of each shape, [2]."""
    found: dict[tuple[int, ...], Any] = {}
    for shape, p in parameters:
        found[shape] = found.get(shape, numpy.zeros(2)) + numpy.array([p.numel(), 1])
    return found


def rank_of(model: nn.Module) -> int | None:
    """The rank of the adapters in a model; None if it has none."""
    return int(next(iter(model.peft_config.values())).r) if isinstance(model, PeftModel) else None
