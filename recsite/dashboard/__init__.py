"""The dashboard: pages for product managers and studios."""
