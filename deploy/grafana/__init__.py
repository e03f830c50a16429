"""Grafana's dashboards: `make dashboards` writes `dashboards/*.json` beside this file from what is said here.

They ask for what docs/metrics.md lists, of the jobs that docs/monitoring.md names. They are written in plain Python
rather than with Grafana's SDK: what is used of Grafana's JSON fits on one page (`panels.py`), and nothing is to be
installed for it.
"""
