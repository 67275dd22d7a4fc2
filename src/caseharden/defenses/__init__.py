"""Defenses, by the name that a spec file gives them."""

from caseharden.defenses.controls import DeadWeights, Gibberish
from caseharden.defenses.patcher import Patcher
from caseharden.defenses.random_mapping import RandomMapping
from caseharden.defenses.reteach import Reteach
from caseharden.defenses.reward_neutralization import RewardNeutralization
from caseharden.defenses.safety_sft import SafetySFT
from caseharden.defenses.tar import TAR
from caseharden.defenses.token_buncher import TokenBuncher

TABLE: dict[str, type] = {
    "dead_weights": DeadWeights,
    "gibberish": Gibberish,
    "patcher": Patcher,
    "random_mapping": RandomMapping,
    "reteach": Reteach,
    "reward_neutralization": RewardNeutralization,
    "safety_sft": SafetySFT,
    "tar": TAR,
    "token_buncher": TokenBuncher,
}
