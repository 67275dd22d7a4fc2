"""Loading: a model and its tokenizer from a folder or the hub, whole or not at all."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from caseharden.errors import CasehardenError
from caseharden.lm.placement import whole

SHOWN = 6
"""How many names of tensors an error tells."""
INTEGERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
UNQUANTIZED = (
    "Quantized weights cannot be trained. Name the model that they were made from, or take them back to floating "
    "point (Transformers' model.dequantize()) and save that."
)
POINTER = b"version https://git-lfs"
"""How a file begins that stands for one which was not fetched."""


def load_checkpoint(source: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The model, in `dtype`, and the tokenizer of a folder or a hub id. Safetensors only; no remote code.

    Raises `CasehardenError` if there is no model, a pickle, or a damaged file; if the hub cannot be reached; and if
    the weights are not those that the configuration asks for, or are not finite. Transformers draws missing weights
    at random.
    """
    folder = Path(source)
    if folder.exists():
        check_folder(folder)
    common = {"trust_remote_code": False, "local_files_only": folder.exists()}
    with loading(source):
        tokenizer = AutoTokenizer.from_pretrained(str(source), **common)
        model, told = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # which are told of below, with the others
            output_loading_info=True,
            **common,
        )
    _check_names(told, source)
    _check_kinds(model, folder)
    check_finite(model, str(source), "Fetch or save the model again.")
    return model, tokenizer


@contextmanager
def loading(source: str | Path) -> Iterator[None]:
    """Turn whatever a stranger's files make Transformers raise into a `CasehardenError`."""
    try:
        yield
    except CasehardenError:
        raise
    except SafetensorError as error:
        raise CasehardenError(
            f"the weights in {source} are damaged ({error}). Fetch or save the model again."
        ) from error
    except Exception as error:
        said = textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__
        raise CasehardenError(
            f"cannot load a model from {str(source)!r}: {said.removesuffix('.')}. Give a folder with config.json "
            "and safetensors weights, or a hub id that this machine can reach."
        ) from error


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise `CasehardenError` if `folder` holds no model: an adapter, weights pickled or quantized, pointers.

    Whether there are `weights` need not be looked at.
    """
    if (folder / "adapter_config.json").is_file():
        raise CasehardenError(
            f"{folder} holds an adapter. Merge it into its base model (PEFT's merge_and_unload), save that, and "
            "name its folder."
        )
    if not (folder / "config.json").is_file():
        raise CasehardenError(f"{folder} holds no model: there is no config.json in it.")
    if "quantization_config" in _read(folder / "config.json"):
        raise CasehardenError(f"{folder} holds a quantized model. {UNQUANTIZED}")
    if not weights:
        return
    for path in folder.glob("*.safetensors"):
        with loading(folder), path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise CasehardenError(f"{path} is a pointer of Git LFS. Fetch what it stands for: git lfs pull.")
    for index in folder.glob("*.safetensors.index.json"):
        shards = _read(index).get("weight_map")
        if outside := [name for name in _values(shards) if Path(name).name != name]:
            raise CasehardenError(
                f"{index} names a file outside its folder ({outside[0]!r}). Fetch the model again."
            )
    if not list(folder.glob("*.safetensors")):
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        what = f"only pickled weights ({pickles[0].name}), which can run code" if pickles else "no weights"
        raise CasehardenError(
            f"{folder} holds {what}. Caseharden reads safetensors only; convert with "
            "model.save_pretrained(folder) in an environment that you trust."
        )


def _read(path: Path) -> Mapping[str, Any]:
    """What a JSON file says; nothing if it is no object. Loading says what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _values(mapping: Any) -> list[str]:
    """The values of a JSON object, as text, each once; nothing if it is none."""
    return sorted({str(value) for value in mapping.values()}) if isinstance(mapping, dict) else []


def check_finite(
    model: torch.nn.Module, name: str, advice: str, error: type[CasehardenError] = CasehardenError
) -> None:
    """Raise `error` if a weight, trained or not, is NaN or infinite."""
    for tensor, values in model.state_dict().items():
        if not whole(torch.isfinite(values).all()):
            raise error(f"the weights {tensor} of {name!r} are not finite. {advice}")


def _check_names(told: dict[str, Any], source: str | Path) -> None:
    """Raise `CasehardenError` for weights that are missing, left over, or of another shape than is asked for."""
    wrong = {
        "missing": told["missing_keys"],
        "not asked for": told["unexpected_keys"],
        "of another shape": [key[0] if isinstance(key, tuple) else key for key in told["mismatched_keys"]],
    }
    said = [f"{len(names)} are {what} ({_listed(names)})" for what, names in wrong.items() if names]
    if told.get("error_msgs"):
        said.append(" ".join(told["error_msgs"]))
    if said:
        raise CasehardenError(
            f"the weights in {str(source)!r} are not those of its config.json: {'; '.join(said)}. Save the model "
            "again with save_pretrained: without torch.compile, with adapters merged, with its own configuration."
        )


def _check_kinds(model: torch.nn.Module, folder: Path) -> None:
    """Raise `CasehardenError` for a weight that is stored in integers: Transformers takes them for its values."""
    real = {name for name, values in model.state_dict().items() if values.is_floating_point()}
    for path in sorted(folder.glob("*.safetensors")):
        with loading(folder), safe_open(path, "pt") as file:
            whole = [name for name in file.keys() if file.get_slice(name).get_dtype() in INTEGERS]  # noqa: SIM118
        if found := real.intersection(whole):
            raise CasehardenError(f"{path} has weights in integers ({_listed(found)}). {UNQUANTIZED}")


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    more = f" and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    return ", ".join(first[:SHOWN]) + more
