"""Records: what was measured, as plain values, with the interval of each. Needs no model and no database."""
