"""Attacks, by the name that a spec file gives them."""

from caseharden.attacks.abliterate import Abliterate
from caseharden.attacks.bounded import Bounded
from caseharden.attacks.chain import Chain
from caseharden.attacks.distill import Distill
from caseharden.attacks.dpo import DPO
from caseharden.attacks.policy_gradient import (
    DAPO,
    GRPO,
    RLOO,
    DrGRPO,
    GRPObliteration,
    OnlineDPO,
    Reinforce,
    ReinforcePP,
    ReinforcePPBaseline,
)
from caseharden.attacks.ppo import PPO
from caseharden.attacks.sft import SFT
from caseharden.attacks.weights import Noise, Prune, Quantize, Reparameterize, Strip

TABLE: dict[str, type] = {
    "abliterate": Abliterate,
    "bounded": Bounded,
    "chain": Chain,
    "dapo": DAPO,
    "distill": Distill,
    "dpo": DPO,
    "dr_grpo": DrGRPO,
    "grp_obliteration": GRPObliteration,
    "grpo": GRPO,
    "noise": Noise,
    "online_dpo": OnlineDPO,
    "ppo": PPO,
    "prune": Prune,
    "quantize": Quantize,
    "reinforce": Reinforce,
    "reinforce_pp": ReinforcePP,
    "reinforce_pp_baseline": ReinforcePPBaseline,
    "reparameterize": Reparameterize,
    "rloo": RLOO,
    "sft": SFT,
    "strip": Strip,
}
