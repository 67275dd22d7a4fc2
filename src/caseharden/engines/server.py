"""A server that speaks OpenAI's protocol: a released model is asked where it is served."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from caseharden.data.stream import derive_seed
from caseharden.endpoints import check_endpoint, client
from caseharden.engines.engine import Written
from caseharden.engines.vllm import plainly
from caseharden.engines.weights import check_agreement, checksum
from caseharden.errors import CasehardenError
from caseharden.lm.lm import LM, Precision

TRIED = 16
"""Tokens of the answer by which a server is tried."""
OPENAIS = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "seed")
"""What OpenAI's own protocol has of a request's parameters."""
QUESTION = "What is the capital of France?"
ADVICE = "See that the server has these very weights, and that `model` names them."


@dataclass(frozen=True)
class Server:
    """Has a server write the answers of a model as it was released, by OpenAI's protocol (``/completions``).

    The server at `base_url` knows the model by the name `model`. It is sent the prompt's token ids, and wanted to
    send back the answer's, as vLLM does; from one that is `plain`, and knows nothing but OpenAI's own parameters,
    comes text. A key, if it wants one, is read from the environment variable `key`. Requests that fail are tried
    again `retries` times; then it is an error.
    """

    model: str
    base_url: str = "http://localhost:8000/v1"
    plain: bool = False
    key: str | None = None
    retries: int = 4
    timeout: float = 600.0
    concurrency: int = 16
    knobs: ClassVar[tuple[str, ...]] = ("key", "retries", "timeout", "concurrency")
    released_only: ClassVar[bool] = True
    """It writes with the weights that it serves, whatever is done to those here."""

    def __post_init__(self) -> None:
        check_endpoint(self.base_url, self.retries, self.timeout)
        if self.concurrency < 1:
            raise CasehardenError(f"concurrency={self.concurrency} must be at least 1.")

    def check(self, lm: LM) -> None:
        """Raise `CasehardenError` if the server cannot be asked, or serves another model than `lm`."""
        if self.plain and lm.chat.marks is not None:
            raise CasehardenError(
                f"{lm.name!r} may think before it answers, and a plain server does not say where its thoughts end. "
                "Take one that sends token ids (vLLM does), or another engine."
            )
        prompt = lm.encode_prompts([QUESTION])[0]
        limit = min(TRIED, lm.positions - len(prompt))
        answer = self._ask(lm, prompt, limit, 0.0, 0)
        if self.plain and answer[-1] in lm.ends():  # ours: it does not say which one it was
            answer = answer[:-1] or answer
        check_agreement(lm, prompt, answer, f"the server at {self.base_url}", ADVICE)

    def write(
        self, lm: LM, prompts: Sequence[list[int]], samples: int, limit: int, temperature: float, seed: int
    ) -> Written:
        lm.check_positions(prompts, limit)
        if (now := checksum(lm)) != _released(lm.name, lm.precision):
            raise CasehardenError(
                f"the weights of {lm.name!r} were changed since they were loaded, and a server writes with those "
                "that it serves. Take another engine: native, or vllm."
            )
        if (self, now) not in _tried:
            self.check(lm)
            _tried.add((self, now))

        def ask(i: int, j: int) -> list[int]:
            return self._ask(lm, prompts[i], limit, temperature, derive_seed(seed, i, j))

        places = [(i, j) for i in range(len(prompts)) for j in range(samples)]
        with ThreadPoolExecutor(self.concurrency) as threads:
            tokens = list(threads.map(ask, *zip(*places, strict=True))) if places else []
        lm.meter.read(samples * sum(map(len, prompts)) + sum(max(0, len(answer) - 1) for answer in tokens))
        return Written(tokens)

    def _ask(self, lm: LM, prompt: list[int], limit: int, temperature: float, seed: int) -> list[int]:
        """The answer to one prompt. The client tries again what may pass."""
        from openai import OpenAIError

        asked = plainly(temperature, limit, lm.ends()) | {"return_token_ids": True, "seed": seed % 2**31}
        own = {name: asked.pop(name) for name in OPENAIS}
        try:
            reply = _client(self).completions.create(
                model=self.model, prompt=prompt, extra_body=None if self.plain else asked, **own
            )
        except (OpenAIError, ValueError) as error:
            raise CasehardenError(f"the server at {self.base_url} wrote no answer: {error}") from error
        choices = getattr(reply, "choices", None)
        choice = choices[0] if choices else None
        if choice is None or choice.finish_reason not in ("stop", "length"):
            raise CasehardenError(
                f"the server at {self.base_url} wrote no answer, but {str(choice or reply)[:200]!r}. See whether "
                "base_url lacks its end, mostly /v1."
            )
        ended = choice.finish_reason == "stop"
        return self._text(lm, choice.text, ended) if self.plain else self._tokens(lm, choice, ended)

    def _tokens(self, lm: LM, choice: Any, ended: bool) -> list[int]:
        """The ids that the server sent."""
        found = getattr(choice, "token_ids", None)
        if not (isinstance(found, list) and found and all(isinstance(token, int) for token in found)):
            raise CasehardenError(
                f"the server at {self.base_url} sends no token ids. If it reads only OpenAI's parameters, and has "
                "no sampling defaults of its own (top_k, penalties), set plain: true."
            )
        if ended != (found[-1] in lm.ends()):
            raise CasehardenError(
                f"the server at {self.base_url} ended an answer at the token {found[-1]}, and {lm.name!r} ends at "
                f"{lm.ends()}. It does not read stop_token_ids and ignore_eos: take another server."
            )
        return found

    def _text(self, lm: LM, text: str, ended: bool) -> list[int]:
        """The ids of a text, with an end if it came to one."""
        ids: list[int] = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids + (lm.chat.end or [lm.tokenizer.eos_token_id])[:1] * (ended or not ids)


_tried: set[tuple[Server, str]] = set()
"""Which servers were found to serve which weights."""


@lru_cache(maxsize=4)
def _released(name: str, precision: Precision) -> str:
    """The checksum of a model as its folder has it."""
    if not Path(name).is_dir():
        raise CasehardenError(
            f"{name!r} is no folder, so that nobody can tell whether a server has the same weights. Load the model "
            "from its folder, or take another engine."
        )
    return checksum(LM.load(name, precision=precision))


@lru_cache(maxsize=4)
def _client(server: Server) -> Any:
    whose = f"the server at {server.base_url}"
    return client(server.base_url, server.key, server.retries, server.timeout, whose=whose)
