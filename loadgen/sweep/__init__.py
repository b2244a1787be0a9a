"""Many cells: plan → server → run → next, the one place that imports `server`.

`command` reads arguments and says the plan, `plan` is what there is to run, `cells` runs one after the other, `side_by_side`
several at once, `simulating` without sockets at all (`records` makes its files), `manifest` remembers.
"""
