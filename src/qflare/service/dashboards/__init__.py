"""Dashboards for Grafana over the metrics, generated; what they show is data (`boards`), how is in `writing`."""
