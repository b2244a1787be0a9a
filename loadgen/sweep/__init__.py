"""Runs a sweep: for each cell of a plan it starts a server, runs the load against it, and stops the server.

`command` reads the arguments and prints the plan. `plan` lists the cells. `cells` runs them one after the other, `parallel` runs
several servers at once, and `simulate` runs the cells on a virtual clock without sockets (`simulated_records` writes their
files). `manifest` records the state of each cell. This is the only package of the load generator that imports `server`.
"""
