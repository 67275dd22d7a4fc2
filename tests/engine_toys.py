"""Stand-ins for vLLM 0.33, as a module and as a server: they speak its interface, and write with Transformers.

They keep to what tells a right adapter from a wrong one: vLLM has a copy of the weights, which only
`reload_weights` changes; asleep it does nothing; its prefix cache outlives new weights; the end that it finds in
the folder ends answers, unless it is told to ignore it; a server has sampling defaults of its own.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from caseharden.lm.lm import LM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class SamplingParams:
    """vLLM's, as far as they matter here, with its defaults."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01


def drawn(
    model: Any, prompt: Sequence[int], told: SamplingParams, ends: set[int], first: torch.Tensor | None = None
) -> tuple[list[int], list[dict[int, Any]], str]:
    """Tokens, the log-probability of each under what it was drawn from, and why they end."""
    generator = torch.Generator().manual_seed(told.seed) if told.seed is not None else None
    tokens: list[int] = []
    logps = []
    for _ in range(told.max_tokens or 16):
        logits_V = (
            model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].float() if tokens or first is None else first
        )
        for seen in {*prompt, *tokens} if told.repetition_penalty != 1 else ():
            logits_V[seen] /= told.repetition_penalty if logits_V[seen] > 0 else 1 / told.repetition_penalty
        if told.top_k > 0:
            logits_V = logits_V.masked_fill(logits_V < logits_V.topk(told.top_k).values[-1], -torch.inf)
        if told.temperature == 0:
            token = int(logits_V.argmax())
            logps.append({token: SimpleNamespace(logprob=0.0)})
        else:
            logps_V = torch.log_softmax(logits_V / told.temperature, -1)
            token = int(torch.multinomial(logps_V.exp(), 1, generator=generator))
            logps.append({token: SimpleNamespace(logprob=float(logps_V[token]))})
        tokens.append(token)
        if token in ends:
            return tokens, logps, "stop"
    return tokens, logps, "length"


class StandIn:
    """``vllm.LLM``. What was done to it stands in `events`."""

    made: list[StandIn] = []  # noqa: RUF012

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        generation_config: str = "auto",
        logprobs_mode: str = "raw_logprobs",
        max_model_len: int | None = None,
        enable_prefix_caching: bool | None = None,
        enable_sleep_mode: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=DTYPES[dtype]).eval()
        self.ends = {self.model.config.eos_token_id}
        self.told = {
            "generation_config": generation_config,
            "logprobs_mode": logprobs_mode,
            "length": max_model_len,
        }
        self.awake = {"weights", "kv_cache"}
        self.may_sleep = enable_sleep_mode
        self.cache: dict[tuple[int, ...], torch.Tensor] = {}
        self.events: list[str] = []
        self.requests: list[SamplingParams] = []
        self.llm_engine = SimpleNamespace(
            engine_core=SimpleNamespace(shutdown=lambda: self.events.append("shutdown"))
        )
        StandIn.made.append(self)

    @property
    def asleep(self) -> bool:
        return len(self.awake) < 2

    def sleep(self, level: int = 1) -> None:
        assert self.may_sleep and level == 1
        self.awake = set()
        self.events.append("sleep")

    def wake_up(self, tags: list[str] | None = None) -> bool:
        self.awake |= {*(tags or ("weights", "kv_cache"))}
        return not self.asleep

    def reset_prefix_cache(self) -> bool:
        self.cache.clear()
        return True

    def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: Any = None
    ) -> list:
        assert method == "reload_weights" and "weights" in self.awake
        new = {name: tensor.clone() for name, tensor in kwargs["weights_iterator"]}
        own = self.model.state_dict()
        assert new.keys() <= own.keys(), f"there is no module or parameter named {min(new.keys() - own.keys())}"
        self.model.load_state_dict({**own, **new})  # what is missing vLLM only warns of
        self.events.append("reload")
        return [None]

    @torch.inference_mode()
    def generate(self, prompts: list, sampling_params: list[SamplingParams], *, use_tqdm: bool = True) -> list:
        assert not self.asleep and len(prompts) == len(sampling_params)
        self.events.append("write")
        self.requests += sampling_params
        found = []
        for prompt, told in zip(prompts, sampling_params, strict=True):
            ids = tuple(prompt["prompt_token_ids"])
            assert len(ids) < self.told["length"]
            if ids not in self.cache:
                self.cache[ids] = self.model(torch.tensor([ids])).logits[0, -1].float()
            ends = {*told.stop_token_ids} | (set() if told.ignore_eos else self.ends)
            tokens, logps, why = drawn(self.model, ids, told, ends, self.cache[ids].clone())
            logprobs = (
                None if told.logprobs is None or self.told["logprobs_mode"] != "processed_logprobs" else logps
            )
            answer = SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=why)
            found.append(SimpleNamespace(outputs=[answer]))
        return found


@contextmanager
def serving(
    lm: LM, *, knows_vllm: bool = True, top_k: int = 0, fails: Callable[[int], int | bytes | None] = lambda n: None
) -> Iterator[tuple[str, list[dict]]]:
    """An endpoint that writes with `lm`; its address, and the requests that came.

    Unless it `knows_vllm` it reads OpenAI's parameters only. `top_k` is its own default. `fails` says what comes of
    the nth request instead of an answer: a status, or a body.
    """
    seen: list[dict] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.append({**asked, "key": self.headers["Authorization"], "path": self.path})
                failure = fails(len(seen))
                body = failure if isinstance(failure, bytes) else json.dumps(self.answer(asked)).encode()
            self.send_response(failure if isinstance(failure, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @torch.inference_mode()
        def answer(self, asked: dict) -> dict:
            names = ("temperature", "seed", "max_tokens") + ("top_k", "repetition_penalty") * knows_vllm
            told = SamplingParams(**{"top_k": top_k} | {name: asked[name] for name in names if name in asked})
            own = set() if knows_vllm and asked.get("ignore_eos") else {lm.tokenizer.eos_token_id}
            ends = own | {*(asked.get("stop_token_ids", ()) if knows_vllm else ())}
            tokens, _, why = drawn(lm.model, asked["prompt"], told, ends)
            text = lm.tokenizer.decode(tokens, skip_special_tokens=True)
            choice = {"index": 0, "text": text, "finish_reason": why, "logprobs": None}
            if knows_vllm and asked.get("return_token_ids"):
                choice["token_ids"] = tokens
            return {
                "id": "1",
                "object": "text_completion",
                "created": 0,
                "model": asked["model"],
                "choices": [choice],
            }

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
