"""Defenses, by the name that a spec file gives them."""

from caseharden.defenses.patcher import Patcher
from caseharden.defenses.random_mapping import RandomMapping
from caseharden.defenses.safety_sft import SafetySFT
from caseharden.defenses.tar import TAR

TABLE: dict[str, type] = {
    "patcher": Patcher,
    "random_mapping": RandomMapping,
    "safety_sft": SafetySFT,
    "tar": TAR,
}
