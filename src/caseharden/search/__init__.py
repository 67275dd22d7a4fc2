"""Search for the strongest attack of a family."""
