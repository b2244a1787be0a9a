"""How we load it: problems × budgets → requests → one Record each, failures included.

Knows one URL; not Docker, models' insides or mathematics. Only `sweep` starts a server.
"""
