"""Reinforcement learning: the one loop, and what its algorithms are made of."""
