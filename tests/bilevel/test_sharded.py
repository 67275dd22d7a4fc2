"""The bilevel core on parameters that two processes hold a half of each (FSDP2 over gloo)."""

import os
import socket

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
from caseharden.train.gradients import cosine, gradient
from caseharden.train.objectives import Imitate
from caseharden.train.optim import snapshot
from caseharden.train.tuner import Run
from toys import ToyDomain

ADVERSARY = SFT(lr=1e-2, batch_size=2)


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
    run = Run(lm, ToyDomain(), "defender", 0)
    parameters = run.trainable()
    before, start = whole(parameters), snapshot(parameters)
    with excursion(run, "there") as adversary_run:
        for _ in trajectory(adversary_run, ADVERSARY, 4, [4]):
            vector = AttackVector.between(start, parameters)
            attacked = whole(parameters)
    after = whole(parameters)
    with vector.applied(parameters, start):
        applied = whole(parameters)
        refuse = Imitate({"refusal": 1.0}, batch_size=4).prepare(run)
        loss, g = gradient(refuse, 0, parameters)
    last = whole(parameters)
    if rank == 0:
        found = {"before": before, "attacked": attacked, "after": after, "applied": applied, "last": last}
        torch.save(found | {"loss": loss, "norm": vector.norm, "cosine": cosine(g, g), "g": whole(g)}, out)
    else:
        vector.norm, cosine(g, g), whole(g)  # collectives need both
    dist.destroy_process_group()


def test_an_excursion_of_sharded_parameters_is_that_of_whole_ones(tiny_lm, tmp_path):
    tiny_lm.save(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(there_and_back, (port, str(tmp_path / "model"), str(tmp_path / "out.pt")), nprocs=2)
    sharded = torch.load(tmp_path / "out.pt", weights_only=True)
    for name in ("after", "last"):
        assert all(torch.equal(a, b) for a, b in zip(sharded[name], sharded["before"], strict=True))
    run = Run(tiny_lm, ToyDomain(), "defender", 0)
    parameters = run.trainable()
    start = snapshot(parameters)
    with excursion(run, "there") as adversary_run:
        for _ in trajectory(adversary_run, ADVERSARY, 4, [4]):
            vector, attacked = AttackVector.between(start, parameters), whole(parameters)
    with vector.applied(parameters, start):
        loss, g = gradient(Imitate({"refusal": 1.0}, batch_size=4).prepare(run), 0, parameters)
    assert sum(p.numel() for p in sharded["before"]) == sum(p.numel() for p in parameters)
    for name in ("attacked", "applied"):
        for ours, theirs in zip(sharded[name], attacked, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)
    assert abs(sharded["loss"] - loss) < 1e-4
    assert abs(sharded["norm"] - vector.norm) < 1e-4
    assert abs(sharded["cosine"] - 1) < 1e-5
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(sharded["g"], g, strict=True))
