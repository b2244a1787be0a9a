"""Dashboards as code. `python -m grafana.generate` writes `grafana/dashboards/*.json`, which Grafana loads at start.

`boards` has one module for each dashboard, `queries` builds the PromQL and `panels` builds the panels. `render` draws the same
dashboards as PNG pictures from a running Prometheus, for readers without a Grafana.
"""
