"""Certificates: an assessment that can be signed, checked against weights, and shown on a model card."""
