"""vLLM, in this process: it holds a copy of the weights, and sleeps while others need the GPU."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch

from caseharden.data.stream import derive_seed
from caseharden.engines.engine import Written
from caseharden.engines.transformers import without_own_defaults
from caseharden.engines.weights import as_checkpoint, base_model, check_agreement, checksum, effective
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM

NEEDED = "the engine vllm needs vLLM, and a GPU: pip install 'caseharden[vllm]'."
IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
"""Set to 0, vLLM computes where it is called: weights are handed over, and no timing decides what goes together."""
COLDEST = 0.01
"""Lower temperatures vLLM takes for this one, and only logs it."""
SAVED = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""What saving and loading write into a configuration, which is none other for that."""
TRIED = 16
"""Tokens of the answer by which a fresh copy of the weights is tried."""
ADVICE = "It does not compute this model rightly. Take another engine."


@dataclass(frozen=True)
class VLLM:
    """Writes answers with vLLM on a GPU, from a copy of the weights that is kept up to date.

    Weights are handed over when they have changed, adapters merged on the way; in between, vLLM sleeps. While it
    writes, it takes the share `gpu_memory` of the GPU's memory; prompts with their answers have room for
    `max_length` tokens; `eager` leaves out CUDA graphs, which take time to make and write faster.
    """

    gpu_memory: float = 0.4
    max_length: int = 4096
    eager: bool = False
    knobs: ClassVar[tuple[str, ...]] = ("gpu_memory", "max_length", "eager")
    approximates: ClassVar[bool] = True
    """Other kernels than the trainer's: its probabilities are not exactly the trainer's."""

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory < 1:
            raise CasehardenError(f"gpu_memory is a share, above 0 and below 1, not {self.gpu_memory}.")
        if self.max_length < 2:
            raise CasehardenError(f"max_length={self.max_length} has no room for a prompt and an answer.")

    @property
    def version(self) -> str:
        """vLLM's. Raises `CasehardenError` if it is not installed."""
        try:
            return metadata.version("vllm")
        except metadata.PackageNotFoundError as error:
            raise CasehardenError(NEEDED) from error

    def write(
        self, lm: LM, prompts: Sequence[list[int]], samples: int, limit: int, temperature: float, seed: int
    ) -> Written:
        lm.check_positions(prompts, limit)
        if (longest := max(map(len, prompts), default=0)) + limit > self.max_length:
            raise CasehardenError(
                f"a prompt takes {longest} tokens, which with answers of up to {limit} are more than max_length="
                f"{self.max_length} of the engine vllm. Raise it."
            )
        if 0 < temperature < COLDEST:
            raise CasehardenError(
                f"vLLM draws at no temperature below {COLDEST}, and this is {temperature}. Take 0."
            )
        if not prompts:
            return Written([])
        seeds = [derive_seed(seed, i, j) for i in range(len(prompts)) for j in range(samples)]
        rows = [prompt for prompt in prompts for _ in range(samples)]
        with _undisturbed(lm, seed), _copy_for(self, lm).up_to_date(lm) as copy:
            written = copy.write(lm, rows, seeds, limit, temperature)
        lm.meter.read(sum(map(len, prompts)) + sum(len(answer) - 1 for answer in written.tokens))
        return written


def plainly(temperature: float, limit: int, ends: list[int]) -> dict[str, Any]:
    """How vLLM is told, here and behind a server, to write as `Engine.write` says.

    All of it is said, since what is left out comes from the model's own generation config, or the server's.
    """
    return {
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": limit,
        "min_tokens": 0,
        "stop_token_ids": ends,
        "ignore_eos": True,  # but for these
    }


class _Copy:
    """vLLM with a copy of a model's weights. It sleeps, its weights on the CPU, unless it is `up_to_date`."""

    def __init__(self, engine: VLLM, lm: LM) -> None:
        self.vllm = _library()
        with TemporaryDirectory() as folder, without_own_defaults(lm) as model:
            model.save_pretrained(folder, state_dict=effective(lm))
            lm.tokenizer.save_pretrained(folder)
            try:
                self.llm = self.vllm.LLM(
                    model=folder,
                    skip_tokenizer_init=True,
                    trust_remote_code=False,
                    dtype=lm.precision.removesuffix("_weights"),
                    seed=0,
                    generation_config="vllm",
                    logprobs_mode="processed_logprobs",
                    max_model_len=min(engine.max_length, lm.positions),
                    gpu_memory_utilization=engine.gpu_memory,
                    enforce_eager=engine.eager,
                    enable_prefix_caching=True,
                    enable_sleep_mode=True,
                )
            except (RuntimeError, ValueError, OSError) as error:
                raise CasehardenError(
                    f"vLLM cannot run {lm.name!r}: {error} If memory ran out, change gpu_memory; else take another "
                    "engine."
                ) from error
        self.held = checksum(lm)
        self.tried = False
        self.llm.sleep(level=1)

    @contextmanager
    def up_to_date(self, lm: LM) -> Iterator[_Copy]:
        """Awake inside, with the weights of `lm`."""
        torch.cuda.empty_cache()
        self.llm.wake_up(tags=["weights"])
        try:
            now = checksum(lm)
            if now != self.held:
                self.held, self.tried = "", False  # neither, should it fail on the way
                new = iter(as_checkpoint(lm).items())
                self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": new})
                self.held = now
            self.llm.wake_up(tags=["kv_cache"])
            self.llm.reset_prefix_cache()
            yield self
        finally:
            self.llm.sleep(level=1)

    def write(
        self, lm: LM, rows: Sequence[list[int]], seeds: Sequence[int], limit: int, temperature: float
    ) -> Written:
        """An answer to each row, drawn under its seed. Fresh weights are tried on the first row besides."""
        drawn = {"detokenize": False, "logprobs": 0 if temperature > 0 else None}
        asked = [
            (row, {"seed": seed} | plainly(temperature, limit, lm.ends()) | drawn)
            for row, seed in zip(rows, seeds, strict=True)
        ]
        if not self.tried:
            asked.append((rows[0], plainly(0.0, TRIED, lm.ends()) | {"detokenize": False}))
        prompts, told = zip(*asked, strict=True)
        found = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [self.vllm.SamplingParams(**one) for one in told],
            use_tqdm=False,
        )
        answers = [one.outputs[0] for one in found]
        for answer in answers:
            if answer.finish_reason not in ("stop", "length") or not answer.token_ids:
                raise CasehardenError(f"vLLM has broken off an answer ({answer.finish_reason}). Its log says why.")
        if not self.tried:
            check_agreement(lm, rows[0], [*answers.pop().token_ids], "vLLM", ADVICE)
            self.tried = True
        tokens = [[*answer.token_ids] for answer in answers]
        if temperature == 0:
            return Written(tokens)
        places = (zip(answer.token_ids, answer.logprobs, strict=True) for answer in answers)
        return Written(tokens, [[place[token].logprob for token, place in one] for one in places])

    def close(self) -> None:
        """Give the GPU's memory back."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        self.vllm.distributed.cleanup_dist_env_and_memory()


_kept: dict[tuple[object, ...], _Copy] = {}
"""The one copy that this process has, by what it was made for: a GPU has no room for more."""


def _copy_for(engine: VLLM, lm: LM) -> _Copy:
    """The copy for models of this architecture, made if there is none yet."""
    if lm.device.index:
        raise CasehardenError(f"vLLM computes on a process's first GPU, and {lm.name!r} is on {lm.device}.")
    shape = {name: value for name, value in base_model(lm).config.to_dict().items() if name not in SAVED}
    made_for = (engine, str(shape), lm.precision)
    if made_for not in _kept:
        while _kept:
            _kept.popitem()[1].close()
        gc.collect()
        torch.cuda.empty_cache()
        _kept[made_for] = _Copy(engine, lm)
    return _kept[made_for]


def _library() -> Any:
    try:
        import vllm
        import vllm.distributed
    except ImportError as error:
        raise CasehardenError(f"{NEEDED} ({error})") from error
    return vllm


@contextmanager
def _undisturbed(lm: LM, seed: int) -> Iterator[None]:
    """Inside, vLLM stays in this process; random states and threads, which it sets, are as they were afterwards."""
    states, threads = (random.getstate(), np.random.get_state()), torch.get_num_threads()
    before = os.environ.get(IN_PROCESS)
    os.environ[IN_PROCESS] = "0"
    try:
        with lm.seeded(seed):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_num_threads(threads)
        if before is None:
            del os.environ[IN_PROCESS]
        else:
            os.environ[IN_PROCESS] = before
