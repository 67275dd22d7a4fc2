"""LM: a causal language model with its tokenizer and chat template."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from caseharden.data.example import Example
from caseharden.errors import DIVERGED, CasehardenError, TrainingFailed
from caseharden.lm.batch import Batch
from caseharden.lm.capabilities import Capabilities, find_capabilities, in_float32
from caseharden.lm.frame import Frame, TemplateName
from caseharden.lm.head import Logits, headless
from caseharden.lm.loading import check_finite, load_checkpoint, loading
from caseharden.lm.memory import PLENTY, Memory
from caseharden.lm.meter import Meter
from caseharden.lm.placement import ALONE, Placement, placed_in, whole
from caseharden.lm.structure import positions
from caseharden.lm.template import Reasoning, Template, Text

Precision = Literal["auto", "float32", "bfloat16", "bfloat16_weights"]

AUTOMATIC = Reasoning()
UNREAD = 0.1
"""A model reads prompts of which at most this share of tokens stands for unknown words."""


class LM:
    """A causal model of Transformers, float32 weights, bfloat16 autocast where CUDA has it.

    With the precision ``bfloat16_weights`` the weights are bfloat16 as well, and optimizers hold float32 masters.

    Everything that knows about chat templates, padding and tokenization is here and nowhere else.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        precision: Precision = "auto",
        reasoning: Reasoning = AUTOMATIC,
        memory: Memory = PLENTY,
        placement: Placement = ALONE,
    ) -> None:
        memory.check(model)
        self.model = model.eval()
        self.placement = placement
        self.tokenizer = tokenizer
        self.name = name
        if precision == "auto":
            cuda = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            precision = "bfloat16" if cuda else "float32"
        self.precision: Precision = precision
        self.reasoning = reasoning
        self.memory = memory
        if tokenizer.eos_token_id is None:
            raise CasehardenError(f"the tokenizer of {name!r} has no end-of-sequence token; set eos_token.")
        self.chat = Template(tokenizer, name, reasoning)
        self.template = self.chat
        self._templates: dict[str, Template] = {"chat": self.chat}
        self.meter = Meter(placement)
        self._counts: dict[Template, dict[tuple[str, str], tuple[int, int]]] = {}  # (tokens, unknown ones)

    # ---- loading and saving -------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
        reasoning: Reasoning = AUTOMATIC,
        memory: Memory = PLENTY,
        placement: Placement = ALONE,
    ) -> LM:
        """Load from a folder or, by id, from the Hugging Face hub: see `load_checkpoint`.

        Raises `CasehardenError` besides if its prompts, padded to one length, are not read as each alone, or if its
        `memory` cannot be spared as asked.
        """
        low = precision == "bfloat16_weights"
        if low or memory.offload:
            placement.refuse("bfloat16_weights" if low else "offload", "masters are not parted")
        read = partial(load_checkpoint, source, torch.bfloat16 if low else torch.float32)
        model, tokenizer = placement.load(read, torch.device(device))
        with loading(source):
            lm = cls(model, tokenizer, str(source), precision, reasoning, memory, placement)
            lm.token_rows([Example("greeting", "Hello!", "Hello!")])
            padding = lm.capabilities.padding
        if not padding:
            raise CasehardenError(
                f"{type(model).__name__} reads a padded prompt otherwise than the same prompt alone, so that its "
                "answers would depend on the batch. Models of this architecture are not supported."
            )
        return lm

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), config and tokenizer to `folder`, then sync them to the disk."""
        weights = self.placement.gather(self.model)
        self.placement.once(partial(self._write, folder, weights))

    def _write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())

    def frozen_copy(self) -> LM:
        """The model as it stands, on the same device, without gradients: a reference to compare with.

        Its tokens are counted with this one's.
        """
        model = self.placement.copy(self.model).requires_grad_(False)
        how = (self.precision, self.reasoning, self.memory, self.placement)
        frozen = LM(model, self.tokenizer, self.name, *how)
        frozen.meter = self.meter
        frozen.capabilities = self.capabilities
        return frozen

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(placed_in(self.model, state))

    def weights_hash(self) -> str:
        """SHA-256 over every parameter and buffer, by name: the identity of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\0".encode())
            flat = whole(tensor.detach()).cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Raise `TrainingFailed` if a weight is NaN or infinite."""
        check_finite(self.model, self.name, DIVERGED, TrainingFailed)

    @cached_property
    def capabilities(self) -> Capabilities:
        """How this model's log-probabilities may be computed; found once, for frozen copies as well."""
        prompts = self.encode_prompts(["Hello!", "Which river is the longest of all?"])
        training = self.model.training
        try:
            with in_float32(self.model):
                # in evaluation mode: under dropout no two passes agree
                found = find_capabilities(self.model.eval(), prompts, self._pad)
            # A cache that gradients go through, and a head, hold on to weights that FSDP2 has put away by then.
            return found if self.placement.world == 1 else replace(found, gaps=False, head=False)
        finally:
            self.model.train(training)

    # ---- device and precision -----------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass: bfloat16 autocast, or nothing."""
        if self.precision != "float32":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Inside, PyTorch's random numbers come from `seed`; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    @contextmanager
    def training(self) -> Iterator[None]:
        """Training mode inside (dropout on), evaluation mode after."""
        self.model.train()
        try:
            yield
        finally:
            self.model.eval()

    @contextmanager
    def templated(self, name: TemplateName) -> Iterator[None]:
        """Inside, prompts are written and answers read under another template than the model's own.

        Raises `CasehardenError` if the tokenizer has no tokens for it.
        """
        if name not in self._templates:
            self._templates[name] = Frame(self.chat, name)
        self.template = self._templates[name]
        try:
            yield
        finally:
            self.template = self.chat

    # ---- text to tensors ----------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example], *, max_length: int = 512, turn: bool = True) -> Batch:
        """Tokenize prompts with their completions and pad them to a batch: see `token_rows`."""
        return self.pad(self.token_rows(examples, max_length=max_length, turn=turn))

    def token_rows(
        self, examples: Sequence[Example], *, max_length: int = 512, turn: bool = True
    ) -> list[tuple[list[int], int]]:
        """Token ids of each prompt with its completion, and the completion's length, for `pad`.

        With `turn` the completion is the assistant's whole turn, as the template writes it: what opens it (thinking
        that is left empty, say) and what ends it are to be learned. Sequences longer than `max_length` tokens, or
        than the model has positions for, lose the end of the completion. Raises `CasehardenError` if a prompt alone
        leaves no room for a completion.
        """
        rows: list[tuple[list[int], int]] = []
        room = min(max_length, self.positions)
        prompts = self.encode_prompts([e.prompt for e in examples], [e.prefix for e in examples], opened=not turn)
        opening = self.template.turn[0] if turn else ""
        completions = self._tokenize([("" if e.prefix else opening) + e.completion for e in examples])
        end = self._known_to_model(self.template.end or [self.tokenizer.eos_token_id]) if turn else []
        for example, prompt, completion in zip(examples, prompts, completions, strict=True):
            row = (prompt + completion + end)[:room]
            if len(row) <= len(prompt):
                raise CasehardenError(
                    f"example {example.id!r}: its prompt takes {len(prompt)} tokens of {room} and "
                    "leaves none for a completion. Raise max_length or drop the example."
                )
            rows.append((row, len(row) - len(prompt)))
        return rows

    def check_prompts(
        self, examples: Sequence[Example], whose: str, *, max_length: int = sys.maxsize, answer: int = 1
    ) -> None:
        """Raise `CasehardenError` if a prompt of `whose` leaves no room for `answer` tokens, or cannot be read.

        There is room for `max_length` tokens, and for no more than the model has positions. At most the share
        `UNREAD` of the prompts' tokens may be the tokenizer's token for unknown words.
        """
        contexts = [example.context for example in examples]
        known = self._counts.setdefault(self.template, {})
        if new := [context for context in contexts if context not in known]:
            ids = self.encode_prompts(*zip(*new, strict=True))
            known.update(zip(new, ((len(row), row.count(self._unknown)) for row in ids), strict=True))
        counts = sorted(known[context] for context in contexts)
        room = min(max_length, self.positions)
        if long := [length for length, _ in counts if length + answer > room]:
            bound = f"the {room} positions of {self.name!r}" if room < max_length else f"max_length={room} tokens"
            raise CasehardenError(
                f"{len(long)} of the {len(counts)} prompts of {whose} leave no room for {answer} tokens of an "
                f"answer in {bound}: the longest takes {long[-1]}. Raise what bounds them, or leave long prompts "
                "out (`longest`, in the domain of prompts)."
            )
        tokens, unread = (sum(column) for column in zip((0, 0), *counts, strict=True))
        if unread > UNREAD * tokens:
            raise CasehardenError(
                f"{unread} of the {tokens} tokens of the prompts of {whose} are {self.tokenizer.unk_token!r}: "
                f"words that {self.name!r} cannot read. Take another domain (or `language`), or another model."
            )

    def check_positions(self, prompts: Sequence[Sequence[int]], limit: int) -> None:
        """Raise `CasehardenError` if the model has no positions for a prompt and `limit` tokens after it."""
        longest = max(map(len, prompts), default=0)
        if longest + limit > self.positions:
            raise CasehardenError(
                f"a prompt takes {longest} tokens, which with answers of up to {limit} are more than the "
                f"{self.positions} positions of {self.name!r}. Leave long prompts out, or lower max_new_tokens."
            )

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._known_to_model(row) for row in ids]

    def _known_to_model(self, ids: list[int]) -> list[int]:
        """`ids`, or a `CasehardenError` if one of them has no embedding."""
        if (last := max(ids, default=0)) >= self._known:
            raise CasehardenError(
                f"the token {self.tokenizer.convert_ids_to_tokens(last)!r} of {self.name!r} has no embedding: its "
                f"tokenizer has more tokens than the {self._known} of the model. Take the tokenizer that the model "
                "was saved with, or resize the embeddings and train them."
            )
        return ids

    def pad(self, rows: Sequence[tuple[list[int], int]]) -> Batch:
        """Rows of token ids, each with the length of the response at its end, as a batch."""
        width = max(len(ids) for ids, _ in rows)
        ids_BT = torch.full((len(rows), width), self._pad)
        attention_BT = torch.zeros((len(rows), width), dtype=torch.long)
        response_BT = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, (ids, response) in enumerate(rows):
            ids_BT[i, width - len(ids) :] = torch.tensor(ids)
            attention_BT[i, width - len(ids) :] = 1
            response_BT[i, width - response :] = response > 0
        return Batch(*(tensor.to(self.device) for tensor in (ids_BT, attention_BT, response_BT)))

    # ---- tensors through the model ------------------------------------------------------------------

    def response_logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits that predict the response tokens only: nothing else goes through the output head.

        Returns `logits_BRV` (float32 or bfloat16), `targets_BR` and `mask_BR`, where R is the length of
        the longest response in the batch and position r of all three speaks of the same token.
        """
        return self._forward(batch).logits, batch.targets_BR, batch.mask_BR

    def response(self, batch: Batch, *, states: bool = False) -> tuple[Logits, Tensor | None]:
        """Logits of the response tokens, not all at once if checkpointing; and `states_LBTD` of every layer."""
        apart = self.memory.checkpointing and self.capabilities.head
        with headless(self.model, self.autocast) if apart else nullcontext() as head:
            out = self._forward(batch, states)
        return Logits(out.logits, head), torch.stack(out.hidden_states) if states else None

    def forward(self, **inputs: Any) -> Any:
        """What the model makes of its inputs, in Transformers' terms; `meter` counts their tokens."""
        return self.through(self.model, **inputs)

    def through(self, model: nn.Module, **inputs: Any) -> Any:
        """What `model`, this one or one made of its parts, makes of inputs; computed and counted like this one."""
        with self.memory.applied(model, cached=inputs.get("use_cache", True)):
            return self.meter.through(model, **inputs)

    def _forward(self, batch: Batch, states: bool = False) -> Any:
        T, R = batch.ids_BT.shape[1], batch.response_length
        before = torch.arange(T - R - 1, T - 1, device=batch.ids_BT.device)  # each predicts the token after it
        with self.autocast():
            return self.forward(
                input_ids=batch.ids_BT,
                attention_mask=batch.attention_BT,
                position_ids=batch.positions_BT,
                logits_to_keep=before,
                use_cache=False,
                output_hidden_states=states,
            )

    @property
    def positions(self) -> int:
        """How many tokens the model can read at a time: see `positions`."""
        config: Any = self.model.config.get_text_config()  # type: ignore[operator, union-attr]
        return positions(config)

    @cached_property
    def _pad(self) -> int:
        """A token that the model has an embedding for. Padding is masked, so that any will do."""
        tokens = (self.tokenizer.pad_token_id, *self.ends(), 0)
        return int(next(token for token in tokens if token is not None and token < self._known))

    @cached_property
    def _known(self) -> int:
        """How many tokens the model has embeddings for."""
        embeddings: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        return int(embeddings.weight.shape[0])

    @cached_property
    def _unknown(self) -> int:
        """The token that stands for unknown words, or -1: where it has another meaning too, no word becomes it."""
        tokenizer = self.tokenizer
        others = (None, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return -1 if tokenizer.unk_token_id in others else int(tokenizer.unk_token_id)

    def ends(self) -> list[int]:
        """Token ids that end an answer: the tokenizer's, the chat template's, and the generation config's."""
        config = getattr(self.model, "generation_config", None)
        own = getattr(config, "eos_token_id", None)
        own = own if isinstance(own, list) else [] if own is None else [own]
        if odd := [token for token in own if not (isinstance(token, int) and 0 <= token < 2**31)]:
            raise CasehardenError(
                f"the generation config of {self.name!r} has no token ids as ends, but {odd[0]!r}."
            )
        end = self.chat.end
        return sorted({self.tokenizer.eos_token_id, *end[:1], *end[-1:], *own})

    def encode_prompts(
        self, prompts: Sequence[str], prefixes: Sequence[str] = (), *, opened: bool = False
    ) -> list[list[int]]:
        """Token ids of each prompt as the model sees it, and of the prefix that its answer opens with, if any.

        Before a prefix, and before every answer that is `opened`, stands what the template opens an answer with.
        """
        opening = self.template.turn[0]
        begun = prefixes or [""] * len(prompts)
        return self._tokenize(
            [
                self.template.prompt(prompt) + (opening if prefix or opened else "") + prefix
                for prompt, prefix in zip(prompts, begun, strict=True)
            ]
        )

    def read(self, answers: Sequence[Sequence[int]], prefixes: Sequence[str] = ()) -> list[Text]:
        """Answers as text, after the prefixes that they go on from: special tokens and thinking left out."""
        begun = prefixes or [""] * len(answers)
        return [self.template.read(ids, prefix) for ids, prefix in zip(answers, begun, strict=True)]
