"""A suite in a size that takes seconds."""

SMALL = {
    "criteria": {"horizon": 2},
    "known_broken": {"safety_sft": {"max_steps": 2}},
    "attacks": [{"sft": {"lr": [1e-3, 3e-4]}}],
    "budgets": [0, 2],
    "seeds": [0, 1],
    "utility_n": 16,
    "benign_runs": {"lr": [3e-3], "budgets": [0, 4], "seeds": [0, 1], "tasks": 1},
}
