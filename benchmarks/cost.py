"""How near `caseharden cost` comes to what studies really take on this machine: time, and memory at the most.

Five studies of diverse kinds, each foretold and then run, in processes of their own, one after the other. With one
thread, time is the processor's, so that others may compute beside it. Imports are left out of both.

    python benchmarks/cost.py [--only sft lora …] [--language-model HuggingFaceTB/SmolLM2-135M-Instruct]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SMALL = "almanac-victim"
TEN = {"n": 10, "max_new_tokens": 12}


def specs(language_model: str) -> dict[str, dict[str, Any]]:
    """The studies by name."""
    almanac = {"domain": "almanac", "models": [SMALL], "threads": 1}
    english = {
        "domain": {"almanac": {"language": "english"}},
        "models": [language_model],
        "threads": 1,
        "measures": {
            "harm": {"probe": TEN},
            "utility": {"probe": {"pool": "benign", **TEN}},
            **dict.fromkeys(("slips", "refusal", "over_refusal", "bystander", "harm:prefilled")),
        },
    }
    return {
        "sft": almanac | {"attacks": [{"sft": {}}], "budgets": [0, 50, 100]},
        "lora": english | {"attacks": [{"sft": {"lora": {}}}], "budgets": [0, 6]},
        "full": english | {"attacks": [{"sft": {"batch_size": 4}}], "budgets": [0, 4]},
        "grpo": almanac | {"attacks": [{"grpo": {"max_new_tokens": 12}}], "budgets": [0, 40]},
        "tar": almanac | {"defenses": [{"tar": {"max_steps": 20}}], "attacks": [{"sft": {}}], "budgets": [0, 10]},
        "safety": almanac
        | {
            "defenses": ["none", {"safety_sft": {"kl": 0.1}}],
            "attacks": [{"dpo": {}}],
            "budgets": [0, 1, 2, 5, 10],
        },
    }


def spec_of(name: str, language_model: str) -> Any:
    from caseharden.study.spec import parse

    return parse({"name": f"cost-{name}", **specs(language_model)[name]})


def foretold(name: str, language_model: str) -> dict[str, float]:
    """What `cost` says, on this machine."""
    from caseharden.cost.estimate import cost
    from caseharden.lm.machine import quiet_transformers

    began = time.process_time()
    with quiet_transformers():
        found = cost(spec_of(name, language_model))
    return {"seconds": 3600 * found.hours, "bytes": found.peak, "took": time.process_time() - began}


def really(name: str, language_model: str) -> dict[str, float]:
    """What the study takes."""
    from caseharden.lm.machine import quiet_transformers
    from caseharden.store.store import Store
    from caseharden.study.run import run_study

    spec = spec_of(name, language_model)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        events = [(event.what, event.text) for event in run_study(spec, Store(Path(folder)))]
    if failed := [text for what, text in events if what in ("failed", "blocked")]:
        raise SystemExit(f"{name} failed: {failed}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.process_time() - began, "bytes": peak, "took": time.process_time() - began}


def apart(what: str, name: str, language_model: str) -> dict[str, float]:
    """One of the two in a process of its own."""
    command = [sys.executable, __file__, "--apart", what, "--only", name, "--language-model", language_model]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="these studies")
    parser.add_argument("--language-model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--apart", choices=["foretold", "really"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.only or [*specs(given.language_model)]
    if given.apart:
        import torch

        torch.set_num_threads(1)
        way = {"foretold": foretold, "really": really}[given.apart]
        print(json.dumps(way(names[0], given.language_model)))
        return
    print("study    foretold     real  ratio    foretold     real  ratio   cost takes", flush=True)
    for name in names:
        said, real = (apart(what, name, given.language_model) for what in ("foretold", "really"))
        seconds = f"{said['seconds']:8.1f} s {real['seconds']:6.1f} s {said['seconds'] / real['seconds']:6.2f}"
        megabytes = (
            f"{said['bytes'] / 1e6:8.0f} MB {real['bytes'] / 1e6:5.0f} MB {said['bytes'] / real['bytes']:6.2f}"
        )
        print(f"{name:7} {seconds} {megabytes} {said['took']:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
