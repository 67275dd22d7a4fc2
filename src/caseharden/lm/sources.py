"""Where models come from: shipped with the package, a folder, the user's cache, or the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from caseharden.errors import CasehardenError, nearest
from caseharden.lm.loading import check_folder

READ_BY_LOAD = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""The files of a model's folder that decide what it does: weights, configuration, tokenizer."""
DESCRIBES = tuple(pattern for pattern in READ_BY_LOAD if "safetensors" not in pattern)
"""Those of them that are no weights."""
PACKAGED = Path(__file__).parents[1] / "domains" / "almanac" / "models"


def cache() -> Path:
    """The folder of models that did not come from the hub: ``CASEHARDEN_CACHE``, or the user's cache folder."""
    root = os.environ.get("CASEHARDEN_CACHE") or platformdirs.user_cache_path("caseharden")
    return Path(root) / "models"


def packaged() -> dict[str, Path]:
    """Models that ship with the package, by name."""
    return {folder.name: folder for folder in sorted(PACKAGED.glob("*")) if (folder / "config.json").is_file()}


def fetched() -> dict[str, Path]:
    """Models in that folder, by hub id."""
    folders = sorted(config.parent for config in cache().glob("*/[!.]*/config.json"))
    return {f"{folder.parent.name}/{folder.name}": folder for folder in folders}


def is_on_hub(name: str) -> bool:
    """Whether `resolve` takes a name for a hub id, got from there or not: there anybody can have the model."""
    return not Path(name).is_dir() and name not in packaged()


def resolve(name: str, *, weights: bool = True) -> Path:
    """The folder of the model that a spec or a user calls `name`, for `LM.load`.

    A folder stands for itself; then models of the package, then models in the cache; anything else is a
    hub id, downloaded into the hub's own cache unless it is there. Without `weights`, only what says how the
    model is built and reads text has to be there, and is fetched. Raises `CasehardenError` if it cannot be had,
    or is a folder without a model.
    """
    if Path(name).is_dir():
        check_folder(Path(name), weights=weights)
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
        return Path(snapshot_download(name, allow_patterns=[*(READ_BY_LOAD if weights else DESCRIBES)]))
    except (OSError, HFValidationError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise CasehardenError(
            f"cannot get {name!r} from the hub ({said}). Check name and connection, or give a folder. "
            "tools/wheel.py gets some models without the hub."
        ) from error
