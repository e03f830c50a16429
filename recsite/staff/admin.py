"""What the admin shows: imported by Django, and with it every page."""

from recsite.staff import audit, automation, catalogue, credentials, loads, people, rollouts, studios, system, versions

__all__ = [
    "audit",
    "automation",
    "catalogue",
    "credentials",
    "loads",
    "people",
    "rollouts",
    "studios",
    "system",
    "versions",
]
