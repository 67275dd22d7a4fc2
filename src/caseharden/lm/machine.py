"""What a run asks of the machine, devices and threads: refused before anything runs if it cannot be had."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch

from caseharden.errors import CasehardenError

MOST_THREADS = 1024
"""More crash PyTorch on many machines, and serve none."""


@runtime_checkable
class Placed(Protocol):
    """Whatever says in a field what it computes on; None leaves that to others."""

    device: str | None


def device_of(name: str | torch.device) -> torch.device:
    """The device of that name; ``auto`` is a GPU if PyTorch finds one. An error says if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # as PyTorch says it, device by device
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise CasehardenError(
            f"device: PyTorch cannot compute on {str(name)!r} here ({said}). Write auto or cpu, or install a "
            "PyTorch that is built for this machine's GPU."
        ) from None
    return device


def check_threads(threads: int | None) -> None:
    """Raise `CasehardenError` for a number of threads that PyTorch cannot have; None leaves them alone."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise CasehardenError(
            f"threads is from 1 to {MOST_THREADS}, not {threads}. Leave it out for as many as PyTorch takes itself."
        )


@contextmanager
def computing(device: torch.device, threads: int | None) -> Iterator[None]:
    """PyTorch as it has to be for results that can be had again; as it was, afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads or before[0])
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, for debugging
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep Transformers from drawing a progress bar for each model, and from warning of what only we can change."""
    from transformers.utils import logging as theirs

    bars, verbosity = theirs.is_progress_bar_enabled(), theirs.get_verbosity()
    theirs.disable_progress_bar()
    theirs.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()
