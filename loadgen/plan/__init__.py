"""Decides before a run what is asked and when: problems, prompts, budgets, the order of the requests and their due times.

Nothing here sends a request or reads a clock.
"""
