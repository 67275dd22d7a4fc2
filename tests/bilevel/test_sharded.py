"""The bilevel core on parameters that two processes hold a half of each, with data of their own (FSDP2)."""

import os
import socket
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from caseharden.attacks import SFT
from caseharden.bilevel.excursion import excursion, trajectory
from caseharden.bilevel.vector import AttackVector
from caseharden.lm.lm import LM
from caseharden.train.finetune import FineTune
from caseharden.train.gradients import Loss, cosine, gradient
from caseharden.train.objectives import Imitate
from caseharden.train.optim import snapshot
from caseharden.train.tuner import Run
from toys import ToyDomain

HOW = {"lr": 0.1, "optimizer": "sgd", "clip": 0.5}  # a clip that binds, and no normalization that would hide scale
ADVERSARY = SFT(batch_size=2, **HOW)
REFUSE = Imitate({"refusal": 1.0}, batch_size=4)


def defender(lm: LM, rank: int) -> Run:
    return Run(lm, ToyDomain(), "defender", rank)


@dataclass(frozen=True)
class BothRanks:
    """The mean of what the two ranks minimize: what sharded training has to come to."""

    objective: Imitate
    batch_size: int = 2

    def prepare(self, run: Run) -> Loss:
        one, other = (
            self.objective.prepare(Run(run.lm, run.domain, run.role, defender(run.lm, rank).seed_for("excursion")))
            for rank in range(2)
        )
        return Loss(lambda step: [(one(step) + other(step)) / 2])


@dataclass(frozen=True)
class BothAdversaries(FineTune):
    lr: float = 0.1
    max_steps: int | None = None

    def objectives(self):
        return {"loss": BothRanks(Imitate({"harmful": 1.0}, batch_size=2))}


def whole(parameters) -> list[torch.Tensor]:
    return [p.full_tensor().detach().clone() if isinstance(p, DTensor) else p.detach().clone() for p in parameters]


def there_and_back(rank: int, port: int, folder: str, out: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    lm = LM.load(folder)
    mesh = init_device_mesh("cpu", (2,))
    for layer in lm.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(lm.model, mesh=mesh)
    run = defender(lm, rank)
    parameters = run.trainable()
    before, start = whole(parameters), snapshot(parameters)
    with excursion(run) as adversary_run:
        for _, metrics in trajectory(adversary_run, ADVERSARY, 4, [4]):
            vector, attacked = AttackVector.between(start, parameters), whole(parameters)
            grad_norm = metrics["grad_norm"]
    after = whole(parameters)
    with vector.applied(parameters, start):
        applied = whole(parameters)
        loss, g = gradient(REFUSE.prepare(run), 0, parameters)
    found = {"before": before, "attacked": attacked, "after": after, "applied": applied, "last": whole(parameters)}
    found |= {"loss": loss, "norm": vector.norm, "cosine": cosine(g, g), "g": whole(g)}
    torch.save(found | {"grad_norm": grad_norm}, f"{out}{rank}")
    dist.destroy_process_group()


def test_an_excursion_of_sharded_parameters_is_that_of_whole_ones(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(there_and_back, (port, str(tmp_path / "model"), str(tmp_path / "out")), nprocs=2)
    sharded, other = (torch.load(tmp_path / f"out{rank}", weights_only=True) for rank in range(2))
    for name in ("after", "last"):
        assert all(torch.equal(a, b) for a, b in zip(sharded[name], sharded["before"], strict=True))
    run = defender(tiny_lm, 0)
    parameters = run.trainable()
    start = snapshot(parameters)
    both = BothAdversaries(optimizer="sgd", clip=0.5)
    with excursion(run) as adversary_run:
        for _, metrics in trajectory(adversary_run, both, 4, [4]):
            vector, attacked = AttackVector.between(start, parameters), whole(parameters)
            grad_norm = metrics["grad_norm"]
    with vector.applied(parameters, start):
        losses, gradients = zip(
            *(gradient(REFUSE.prepare(defender(tiny_lm, rank)), 0, parameters) for rank in range(2)), strict=True
        )
    assert sum(p.numel() for p in sharded["before"]) == sum(p.numel() for p in parameters)
    assert grad_norm > both.clip
    for rank, one in enumerate((sharded, other)):
        assert abs(one["grad_norm"] - grad_norm) < 1e-4
        assert abs(one["loss"] - losses[rank]) < 1e-4
        assert abs(one["norm"] - vector.norm) < 1e-4
        assert abs(one["cosine"] - 1) < 1e-5
    assert losses[0] != losses[1]
    for name in ("attacked", "applied"):
        for ours, theirs in zip(sharded[name], attacked, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)
    means = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(sharded["g"], means, strict=True))
