"""Scripts of the published studies in docs/results: publish runs, print the tables of a page, fit and check the emulator.

Each script is run by hand, as `python -m benchmarks.studies.NAME`.
"""
