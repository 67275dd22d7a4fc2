"""Measures, by the name that a spec file gives them."""

from caseharden.measures.best_of import BestOf
from caseharden.measures.choice import MultipleChoice
from caseharden.measures.perplexity import Perplexity
from caseharden.measures.probe import Probe
from caseharden.measures.worst_of import WorstOf

TABLE: dict[str, type] = {
    "best_of": BestOf,
    "multiple_choice": MultipleChoice,
    "perplexity": Perplexity,
    "probe": Probe,
    "worst_of": WorstOf,
}
