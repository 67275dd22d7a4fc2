"""Domains, by the name that a spec file gives them."""

from caseharden.domains.almanac import Almanac
from caseharden.domains.attacker_only import AttackerOnly
from caseharden.domains.prompts.prompts import Prompts

TABLE: dict[str, type] = {
    "almanac": Almanac,
    "attacker_only": AttackerOnly,
    "prompts": Prompts,
}
