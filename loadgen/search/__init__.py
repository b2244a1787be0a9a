"""Finds the highest load that meets the objectives, and runs several load points on one server.

`bracket` decides what to test next, `decision` what a test shows, and `probes` makes a test of one or more runs. `arguments` are
those of a search, `runs` does its runs, and `result` writes search.json. `command` is `python -m loadgen search`, and `loads` is
`run --loads`.
"""
