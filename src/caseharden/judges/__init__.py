"""Judges, by the name that a spec file gives them."""

from caseharden.judges.classifier import Classifier
from caseharden.judges.coherence import Coherence
from caseharden.judges.compliance import Compliance
from caseharden.judges.exact import Choice, Exact, FinalNumber
from caseharden.judges.llm import LLMJudge
from caseharden.judges.refusal import Refusal
from caseharden.judges.strings import StringRefusal
from caseharden.judges.verifier import Verifier

TABLE: dict[str, type] = {
    "choice": Choice,
    "classifier": Classifier,
    "coherence": Coherence,
    "compliance": Compliance,
    "exact": Exact,
    "final_number": FinalNumber,
    "llm": LLMJudge,
    "refusal": Refusal,
    "string_refusal": StringRefusal,
    "verifier": Verifier,
}
