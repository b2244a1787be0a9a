"""Finds the highest load that meets the objectives, and runs several load points on one server.

`bracket` decides what to test next, `decision` what a test shows, and `probes` makes a test of one or more runs. `command` is
`python -m loadgen search`, `result` writes search.json, and `loads` is `run --loads`.
"""
