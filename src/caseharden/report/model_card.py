"""The model card of a hardened model, with a place for the audit's block."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment

import caseharden
from caseharden.records.results import UNDEFENDED, Reading, Results
from caseharden.report.export import save
from caseharden.report.scorecard import as_text
from caseharden.report.style import counted

NAME = "README.md"
BEGIN, END = "<!-- caseharden audit: begin -->", "<!-- caseharden audit: end -->"
NONE_YET = "None yet. `caseharden audit` on this folder puts its result here."


def write_card(
    folder: Path,
    results: Results,
    *,
    base: str,
    base_weights: str,
    weights: str,
    name: str,
    method: Any,
    seed: int,
    domain: Any,
) -> Path:
    """Write the card of the hardened model in `folder`; an audit's block that is there stays. Returns its path.

    `base` is a hub id or another name of the model that it was made from, `name` the method's short name; `method`
    and `domain` are as a study file writes them. `results` has what was measured of both models as they are.
    """
    measured = {curve.defense == UNDEFENDED: curve.points[0].readings for curve in results.curves}
    before, after = measured.get(True, {}), measured.get(False, {})
    environment = Environment(trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"text": as_text, "code": _code}
    template = files("caseharden.report").joinpath("templates/model_card.md.j2").read_text(encoding="utf-8")
    data = ModelCardData(
        base_model=base if "/" in base else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["caseharden"],
    )
    found = environment.from_string(template).render(
        card_data=data.to_yaml(),
        base=base,
        base_weights=base_weights,
        weights=weights,
        version=caseharden.__version__,
        name=name,
        seed=seed,
        domain=_one_line(domain),
        fields=yaml.safe_dump(method, sort_keys=False, allow_unicode=True).rstrip(),
        readings=[
            (measure, before.get(measure, "not measured"), after.get(measure, "not measured"))
            for measure in {**before, **after}
        ],
        behind=[_behind(*item) for item in after.items()],
        packages=_one_line(results.provenance.get("packages", {})),
        audit=f"{BEGIN}\n{_block(folder / NAME) or NONE_YET}\n{END}",
    )
    return save(folder / NAME, str(ModelCard(found)))


def has_place(folder: Path) -> bool:
    """Whether the model in `folder` has a card with a place for an audit's block."""
    return _block(folder / NAME) is not None


def put_audit(folder: Path, block: str) -> Path:
    """Put an audit's block, Markdown, in the place of the one before; the rest of the card stays as it is."""
    text = _read(folder / NAME)
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return save(folder / NAME, f"{head}{BEGIN}\n{block.strip()}\n{END}{tail}")


def _block(path: Path) -> str | None:
    _, begin, rest = _read(path).partition(BEGIN)
    block, end, _ = rest.partition(END)
    return block.strip() if begin and end else None


def _read(path: Path) -> str:
    """The card; nothing if there is none that can be read."""
    try:
        return path.read_bytes().decode("utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _behind(measure: str, reading: Reading) -> str:
    """What stands behind a reading."""
    judge = f", by {reading.judge}, version {reading.judge_version}" if reading.judge else ""
    return f"{measure}: {counted(reading.n, 'scored answer')}, {reading.unscored} without a score{judge}"


def _one_line(value: Any) -> str:
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6).strip()


def _code(text: str) -> str:
    """`text` as it can stand between backticks."""
    return " ".join(text.replace("`", "'").split())
