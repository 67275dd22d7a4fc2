"""LM: a causal language model with its tokenizer and chat template."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from caseharden.data.conversation import turns
from caseharden.data.example import Example
from caseharden.errors import DIVERGED, CasehardenError, TrainingFailed
from caseharden.lm.batch import Batch
from caseharden.lm.meter import Meter

Precision = Literal["auto", "float32", "bfloat16"]

DATE = "01 Jan 2025"
"""The date that chat templates are given, so that prompts, and with them results, are the same tomorrow."""

log = logging.getLogger(__name__)


class LM:
    """A causal model of Transformers, float32 master weights, bfloat16 autocast where CUDA has it.

    Everything that knows about chat templates, padding and tokenization is here and nowhere else.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, precision: Precision = "auto") -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        if precision == "auto":
            cuda = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            precision = "bfloat16" if cuda else "float32"
        self.precision: Precision = precision
        if tokenizer.eos_token_id is None:
            raise CasehardenError(f"the tokenizer of {name!r} has no end-of-sequence token; set eos_token.")
        if tokenizer.chat_template is None:
            raise CasehardenError(
                f"the tokenizer of {name!r} has no chat template. Put a chat_template.jinja into the model's "
                "folder (an instruct model of the same family has one), or name an instruct model."
            )
        if "strftime_now" in str(tokenizer.chat_template) and "date_string" not in str(tokenizer.chat_template):
            log.warning("the chat template of %r tells the model today's date: prompts change with the day", name)
        self.meter = Meter()
        self._lengths: dict[tuple[str, str], int] = {}
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    # ---- loading and saving -------------------------------------------------------------------------

    @classmethod
    def load(cls, source: str | Path, *, device: str | torch.device = "cpu", precision: Precision = "auto") -> LM:
        """Load from a folder or, by id, from the Hugging Face hub. Safetensors only; no remote code.

        Raises `CasehardenError` if the folder holds no model, a pickle, or a damaged file, or if the hub
        cannot be reached.
        """
        folder = Path(source)
        if folder.exists():
            check_folder(folder)
        common = {"trust_remote_code": False, "local_files_only": folder.exists()}
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), **common)
            model = AutoModelForCausalLM.from_pretrained(
                str(source), dtype=torch.float32, use_safetensors=True, **common
            )
        except SafetensorError as error:
            raise CasehardenError(
                f"the weights in {source} are damaged ({error}). Fetch or save the model again."
            ) from error
        except (OSError, ValueError) as error:
            raise CasehardenError(
                f"cannot load a model from {str(source)!r}: {_first_line(error)} Give a folder with config.json "
                "and safetensors weights, or a hub id that this machine can reach."
            ) from error
        return cls(model.to(torch.device(device)), tokenizer, str(source), precision)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), config and tokenizer to `folder`, then sync them to the disk."""
        self.model.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())

    def frozen_copy(self) -> LM:
        """The model as it stands, on the same device, without gradients: a reference to compare with.

        Its tokens are counted with this one's.
        """
        model = copy.deepcopy(self.model).requires_grad_(False)
        frozen = LM(model, self.tokenizer, self.name, self.precision)
        frozen.meter = self.meter
        return frozen

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(state)

    def weights_hash(self) -> str:
        """SHA-256 over every parameter and buffer, by name: the identity of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\0".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Raise `TrainingFailed` if a weight is NaN or infinite."""
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingFailed(f"the weights {name} of {self.name!r} are no longer finite. {DIVERGED}")

    # ---- device and precision -----------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass: bfloat16 autocast over float32 masters, or nothing."""
        if self.precision == "bfloat16":
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

    # ---- text to tensors ----------------------------------------------------------------------------

    def chat(self, prompt: str) -> str:
        """The prompt as the model sees it: chat template applied, ready for the assistant's turn."""
        said = turns(prompt)
        try:
            text: str = self.tokenizer.apply_chat_template(
                [{"role": who, "content": content} for who, content in said],
                tokenize=False,
                add_generation_prompt=True,
                date_string=DATE,
            )
        except TemplateError as error:
            raise CasehardenError(
                f"the chat template of {self.name!r} refuses turns of {', '.join(who for who, _ in said)}: "
                f"{error}. Leave such prompts out, or put what the system says into the user's turn."
            ) from error
        if lost := [who for who, content in said[:-1] if who != "assistant" and content not in text]:
            raise CasehardenError(
                f"the chat template of {self.name!r} does not show the turn of {lost[0]}: the model would be asked "
                "something else. Leave such prompts out, or put that into the user's last turn."
            )
        return text

    def encode(self, examples: Sequence[Example], *, max_length: int = 512, end: bool = True) -> Batch:
        """Tokenize prompts with their completions and pad them to a batch: see `token_rows`."""
        return self.pad(self.token_rows(examples, max_length=max_length, end=end))

    def token_rows(
        self, examples: Sequence[Example], *, max_length: int = 512, end: bool = True
    ) -> list[tuple[list[int], int]]:
        """Token ids of each prompt with its completion, and the completion's length, for `pad`.

        `end` adds the end-of-sequence token to learn. Sequences longer than `max_length` tokens lose the end of
        the completion. Raises `CasehardenError` if a prompt alone leaves no room for a completion.
        """
        rows: list[tuple[list[int], int]] = []
        prompts = self.encode_prompts([e.prompt for e in examples], [e.prefix for e in examples])
        completions = self._tokenize([example.completion for example in examples])
        eos = [self.tokenizer.eos_token_id] if end else []
        for example, prompt, completion in zip(examples, prompts, completions, strict=True):
            row = (prompt + completion + eos)[:max_length]
            if len(row) <= len(prompt):
                raise CasehardenError(
                    f"example {example.id!r}: its prompt takes {len(prompt)} tokens of max_length={max_length} and "
                    "leaves none for a completion. Raise max_length or drop the example."
                )
            rows.append((row, len(row) - len(prompt)))
        return rows

    def check_room(self, examples: Sequence[Example], max_length: int, whose: str) -> None:
        """Raise `CasehardenError` if a prompt of `whose` leaves no room for a completion in `max_length` tokens."""
        contexts = [example.context for example in examples]
        if new := [context for context in contexts if context not in self._lengths]:
            lengths = map(len, self.encode_prompts(*zip(*new, strict=True)))
            self._lengths.update(zip(new, lengths, strict=True))
        longest = sorted(self._lengths[context] for context in contexts)
        if long := [length for length in longest if length >= max_length]:
            raise CasehardenError(
                f"{len(long)} of the {len(longest)} prompts of {whose} leave no room for a completion in "
                f"max_length={max_length} tokens: the longest takes {long[-1]}. Raise max_length, or leave long "
                "prompts out (`longest`, in the domain of prompts)."
            )

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
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

    def response_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `response_logits`, but `logits_BRV` with the hidden states of every layer, `states_LBTD`."""
        out = self._forward(batch, output_hidden_states=True)
        return out.logits, torch.stack(out.hidden_states)

    def forward(self, **inputs: Any) -> Any:
        """What the model makes of its inputs, in Transformers' terms; `meter` counts their tokens."""
        return self.meter.through(self.model, **inputs)

    def _forward(self, batch: Batch, **wanted: bool) -> Any:
        T, R = batch.ids_BT.shape[1], batch.response_length
        before = torch.arange(T - R - 1, T - 1, device=batch.ids_BT.device)  # each predicts the token after it
        with self.autocast():
            return self.forward(
                input_ids=batch.ids_BT,
                attention_mask=batch.attention_BT,
                position_ids=batch.positions_BT,
                logits_to_keep=before,
                use_cache=False,
                **wanted,
            )

    def ends(self) -> list[int]:
        """Token ids that end an answer: the tokenizer's, and those of the model's own generation config."""
        config = getattr(self.model, "generation_config", None)
        own = getattr(config, "eos_token_id", None)
        own = own if isinstance(own, list) else [] if own is None else [own]
        return sorted({self.tokenizer.eos_token_id, *own})

    def encode_prompts(self, prompts: Sequence[str], prefixes: Sequence[str] = ()) -> list[list[int]]:
        """Token ids of each prompt as the model sees it, and of the prefix that its answer opens with, if any."""
        begun = prefixes or [""] * len(prompts)
        return self._tokenize([self.chat(p) + prefix for p, prefix in zip(prompts, begun, strict=True)])

    def text(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Token ids as text, special tokens left out."""
        texts: list[str] = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts


def check_folder(folder: Path) -> None:
    """Raise `CasehardenError` if `folder` holds no model, or only pickled weights."""
    if not (folder / "config.json").is_file():
        raise CasehardenError(f"{folder} holds no model: there is no config.json in it.")
    if not list(folder.glob("*.safetensors")):
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        what = f"only pickled weights ({pickles[0].name}), which can run code" if pickles else "no weights"
        raise CasehardenError(
            f"{folder} holds {what}. Caseharden reads safetensors only; convert with "
            "model.save_pretrained(folder) in an environment that you trust."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
