"""Run benchmarks that have a target, but those of memory and cost, into `results.json` and `README.md` beside this.

    make bench            or    python benchmarks/bench.py [FIGURE ...]

Figures are ratios, each measured in one run, so that they hold on other machines too. With names (as in the
tables) only those are measured again; the others stay as they were. Nothing else should run meanwhile: an hour and
a half on two cores, and SmolLM2's figures need the model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, TABLES = HERE / "results.json", HERE / "README.md"
BEGIN, END = "<!-- results: written by bench.py -->", "<!-- end of results -->"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Figure:
    """A ratio that a script tells under the name `key`, and what it has to be: at most, or at least."""

    name: str
    script: str
    key: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def target(self) -> str:
        if self.at_most is None and self.at_least is None:
            return ""
        return f"≥ {self.at_least:g}" if self.at_most is None else f"≤ {self.at_most:g}"

    def holds(self, ratio: float) -> bool | None:
        if self.at_most is None and self.at_least is None:
            return None
        return ratio <= self.at_most if self.at_most is not None else ratio >= (self.at_least or 0.0)


@dataclass(frozen=True)
class Axis:
    """How a ratio grows with something: one script, with one of its arguments at each of `values`."""

    name: str
    script: str
    argument: str
    values: tuple[str, ...]
    key: str

    @property
    def title(self) -> str:
        return f"{self.name}, by {self.argument}"

    def command(self, value: str) -> str:
        return f"{self.script} {self.argument} {value}"


FIGURES = (
    Figure("SFT step / TRL's", "sft_step.py", "seconds, caseharden / trl", at_most=1.0),
    Figure("SFT step / by hand", "sft_step.py", "seconds, caseharden / bare"),
    Figure(
        "SFT step / TRL's, SmolLM2",
        f"sft_step.py --model {SMOLLM2} --steps 6 --repeats 3",
        "seconds, caseharden / trl",
        at_most=0.81,
    ),
    Figure("GRPO step / TRL's", "grpo_step.py --repeats 9", "step, caseharden / trl", at_most=0.56),
    Figure("GRPO step / by hand", "grpo_step.py --repeats 9", "step, caseharden / bare"),
    Figure(
        "GRPO step / TRL's, SmolLM2",
        f"grpo_step.py --model {SMOLLM2} --steps 2 --repeats 2",
        "step, caseharden / trl",
        at_most=0.27,
    ),
    Figure("TAR step / its parts by hand", "bilevel_step.py --repeats 3", "seconds, tar / bare"),
    Figure(
        "Patcher: in turn / beside",
        "bilevel_step.py --repeats 3",
        "seconds, sequential, k1 = 2 k2 / asynchronous, k1 = 2 k2",
    ),
    Figure("one job / 2 jobs", "jobs.py", "seconds, one job / several jobs", at_least=1.8),
    Figure("one job / 2 workers of Ray", "jobs.py --on ray", "seconds, one job / several jobs", at_least=1.8),
    Figure("machinery's share of a study", "machinery.py", "share of time", at_most=0.05),
    Figure("records: growth of planning", "records.py", "exponent, plan", at_most=1.2),
    Figure("records: growth of running", "records.py", "exponent, run", at_most=1.2),
    Figure("records: growth of resuming", "records.py", "exponent, resume", at_most=1.2),
    Figure("records: growth of reading", "records.py", "exponent, results", at_most=1.2),
    Figure("records: growth of reporting", "records.py", "exponent, report", at_most=1.2),
)
AXES = (
    Axis(
        "SFT step / by hand",
        "sft_step.py --repeats 3",
        "--batch-size",
        ("2", "8", "32"),
        "seconds, caseharden / bare",
    ),
    Axis(
        "SFT step / by hand",
        "sft_step.py --steps 6 --repeats 3",
        "--model",
        ("almanac-victim", SMOLLM2),
        "seconds, caseharden / bare",
    ),
    Axis("GRPO step / by hand", "grpo_step.py", "--new-tokens", ("6", "12", "24"), "step, caseharden / bare"),
    Axis("GRPO step / TRL's", "grpo_step.py", "--samples", ("4", "8", "16"), "step, caseharden / trl"),
    Axis("one job / 2 jobs", "jobs.py --steps 50", "--cells", ("8", "24"), "seconds, one job / several jobs"),
    Axis("machinery's share of a study", "machinery.py", "--cells", ("10", "30", "100"), "share of time"),
)


class Runs:
    """Scripts, each run once with the same arguments."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[float]]] = {}

    def of(self, command: str) -> dict[str, list[float]]:
        """The figures that a script tells in its last line."""
        if command not in self._found:
            print(f"python benchmarks/{command}", flush=True)
            script, *arguments = command.split()
            run = [sys.executable, str(HERE / script), *arguments]
            done = subprocess.run(
                run, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            if done.returncode:
                sys.exit(f"{command} ended with status {done.returncode}; what was measured before is in {RESULTS}")
            print(done.stdout, flush=True)
            self._found[command] = json.loads(done.stdout.splitlines()[-1])
        return self._found[command]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help="names of figures to measure; all if left out")
    wanted = parser.parse_args().figures
    names = [*(figure.name for figure in FIGURES), *(axis.title for axis in AXES)]
    if unknown := sorted({*wanted} - {*names}):
        sys.exit(f"there is no figure {unknown[0]!r}, only {', '.join(names)}")
    results: dict[str, Any] = (
        json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"figures": {}, "growth": {}}
    )
    runs = Runs()
    for figure in FIGURES:
        if figure.name in (wanted or names):
            values = runs.of(figure.script)[figure.key]
            results["figures"][figure.name] = measured(values) | {
                "target": figure.target,
                "holds": figure.holds(statistics.median(values)),
                **circumstances(figure.script),
            }
            keep(results)
    for axis in AXES:
        if axis.title in (wanted or names):
            by = {value: measured(runs.of(axis.command(value))[axis.key]) for value in axis.values}
            results["growth"][axis.title] = by | circumstances(axis.script)
            keep(results)
    missed = [name for name, one in results["figures"].items() if one["holds"] is False]
    print(f"missed: {', '.join(missed)}" if missed else "all targets hold")


def measured(values: Sequence[float]) -> dict[str, float]:
    """Median and range over the repetitions."""
    return {"ratio": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def circumstances(command: str) -> dict[str, Any]:
    """How and where a figure was measured."""
    packages = {name: version(name) for name in ("torch", "transformers", "trl")}
    on = {"cores": os.cpu_count(), "processor": platform.machine(), "measured": date.today().isoformat()}
    return {"command": f"python benchmarks/{command}", **on, **packages}


def keep(results: dict[str, Any]) -> None:
    """Write the results, and the tables into the README beside them."""
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    lines = ["| figure | ratio | range | target | holds |", "|---|---|---|---|---|"]
    for name, one in results["figures"].items():
        holds = {True: "yes", False: "**no**", None: ""}[one["holds"]]
        lines.append(
            f"| {name} | {one['ratio']:.3f} | {one['low']:.3f} to {one['high']:.3f} | {one['target']} | {holds} |"
        )
    lines += ["", "| growth | |", "|---|---|"]
    for name, one in results["growth"].items():
        steps = [f"{value}: {at['ratio']:.3f}" for value, at in one.items() if isinstance(at, dict)]
        lines.append(f"| {name} | {', '.join(steps)} |")
    before, _, rest = TABLES.read_text().partition(BEGIN)
    TABLES.write_text("\n".join([before + BEGIN, "", *lines, "", END + rest.partition(END)[2]]))


if __name__ == "__main__":
    main()
