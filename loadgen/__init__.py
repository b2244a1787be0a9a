"""The load generator: sends problems under token budgets to a server and writes one Record for each request.

It knows the server only by its URL. It does not know Docker, the inside of models, or mathematics. Only `loadgen.sweep` starts
servers.
"""
