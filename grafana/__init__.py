"""Dashboards as code: `python -m grafana.generate` writes `grafana/dashboards/*.json`, which Grafana is provisioned with.

One file a dashboard (`run compare server gpu`), one for PromQL (`queries`), one for panels (`panels`). `render` draws the same
dashboards from a running Prometheus where there is no Grafana.
"""
