"""Training: the tuner's protocol, the run that it works on, objectives, and the optimizer step."""
