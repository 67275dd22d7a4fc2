"""Audit: what the results of a study say about a defense, and how far they can be believed.

Everything here works on the plain values of `caseharden.records.results`, without a model and without a
database. `resistance` tells how many attack steps each defense stood.
"""
