"""Bilevel: attackers simulated inside a defense, and the gradients carried back from where they end."""
