"""Suites: what an audit runs, and the evidence that comes of it."""
