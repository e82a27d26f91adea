"""Figures for operators: what workers count, put together by the parent and shown to Prometheus at `/metrics`."""
