"""Runs a sweep: starts the servers of a plan, runs the load of each cell against its server, and stops the servers.

`command` reads the arguments, `plan_file` those of a plan file. `study` checks the plan: `plan` and `axes` list the cells, `serve`
has the options of their servers, and `groups` places the servers on the GPUs. `cells` runs the cells, `residents` starts and
pauses the servers of a group, `parallel` loads several servers at once, and `simulate` runs the cells on a virtual clock without
sockets (`simulated_records` writes their files). `manifest` records the state of each cell, and `screen` shows it. This is the
only package of the load generator that imports `server`.
"""
