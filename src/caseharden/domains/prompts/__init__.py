"""Prompts: real requests out of public sets or files of one's own."""
