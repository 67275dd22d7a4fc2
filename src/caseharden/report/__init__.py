"""Reports: one HTML file, one JSON file, figures for papers, and the scoreboard of the terminal.

Everything here reads `caseharden.records.results.Results` and nothing else. Each writer has a module of its
own (`html`, `export`, `figures`, `table`), so that nobody waits for a plotting library they do not use.
"""
