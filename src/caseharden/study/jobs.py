"""Jobs: how many cells of a study are worked on at a time, and by whom."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from caseharden.errors import CasehardenError
from caseharden.executors import torchrun
from caseharden.executors.executor import Executor, Local
from caseharden.executors.processes import Processes
from caseharden.executors.ray import Cluster, Needs
from caseharden.lm import sources as models
from caseharden.lm.facts import parameters
from caseharden.lm.machine import MOST_THREADS, check_threads, device_of, quiet_transformers
from caseharden.study.plan import plan
from caseharden.study.spec import StudySpec, computing_on, named_devices

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Where libraries look how many threads to have; each worker would have one a core otherwise."""
BARE, PER_PARAMETER = 2**30, 24
"""Bytes that a worker takes without a model, and for each parameter: weights, gradient, two moments, two copies."""


def executor(
    specs: Sequence[StudySpec],
    jobs: int | None,
    threads: int | None,
    *,
    to_come: int = 0,
    on: str | None = None,
) -> Executor:
    """Whoever works on the cells of these studies, `jobs` at a time: this process on one, else a process on each.

    Where torchrun has started this process, all that it has started do, one cell at a time: see `lm.placement`.
    With the address of a Ray cluster (`on`) its machines do, as many at a time as there is room for. Otherwise None
    is as many as suit the machine (see `fitting`), where each study will have `to_come` attacks that it does not
    name yet. Raises `CasehardenError` for a number that cannot be, and as `Cluster` does.
    """
    check_threads(threads)
    if jobs is not None and not 1 <= jobs <= MOST_THREADS:
        raise CasehardenError(
            f"jobs is from 1 to {MOST_THREADS}, not {jobs}. Leave it out for what suits the machine."
        )
    if torchrun.launched():
        if on is not None or jobs not in (None, 1):
            raise CasehardenError("the processes of torchrun work on one cell together: leave out jobs and on.")
        return torchrun.joined()
    each = threads or max(spec.threads or 1 for spec in specs)
    common = {**dict.fromkeys(POOLS, str(each)), "TOKENIZERS_PARALLELISM": "false"}
    if on is not None:
        return Cluster(on, jobs, needs(specs, each), common, around=quiet_transformers)
    number = jobs or max(fitting(spec, threads, to_come) for spec in specs)
    if number == 1:
        return Local()
    gpus = _gpus(specs)
    own = [{"CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]} if gpus else {} for worker in range(number)]
    return Processes([common | one for one in own], around=quiet_transformers)


def fitting(spec: StudySpec, threads: int | None, to_come: int = 0) -> int:
    """How many cells of a study to work on at a time, if nobody says: one a GPU, or one a core.

    But one where somebody says how many `threads` there are, where a simulated attacker has a GPU of its own, and
    where so many processes of a thread each would be worse than one of many threads: with fewer cells to train
    in than cores, or too little memory.
    """
    trained = to_come + sum(cell.tuner is not None for cell in plan(spec))
    if threads is not None or trained < 2:
        return 1
    if device_of(spec.device).type != "cpu":
        return max(1, min(trained, len(_gpus([spec]))))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = min(trained, memory // memory_of(spec))
    at_once = cores() // (spec.threads or 1)
    return max(1, min(at_once, most) if spec.threads or at_once <= most else 1)


def memory_of(spec: StudySpec) -> int:
    """Bytes that a cell of the study's largest model takes in training, about."""
    return BARE + PER_PARAMETER * max(parameters(models.resolve(one)) for one in (*spec.models, *spec.controls))


def needs(specs: Sequence[StudySpec], threads: int) -> Needs:
    """What a worker of a cluster has for itself: a core a thread, memory, and a GPU if the study wants one."""
    if named := [device for spec in specs for device in named_devices(spec)]:
        raise CasehardenError(
            f"a method names a device ({named[0]}), and a worker of a cluster has those that it is given. Leave "
            "the device out, or run the study here."
        )
    gpus = int(any(computing_on(spec, elsewhere=True).type == "cuda" for spec in specs))
    return Needs(threads, gpus, max(map(memory_of, specs)))


def cores() -> int:
    """The cores that this process may compute on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus(specs: Sequence[StudySpec]) -> list[str]:
    """What CUDA calls each GPU that a worker can have for itself; none where a method names a device."""
    if any(named_devices(spec) or device_of(spec.device).type != "cuda" for spec in specs):
        return []
    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    return known.split(",") if known else [str(number) for number in range(torch.cuda.device_count())]
