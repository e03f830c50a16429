"""What the admin shows: imported by Django, and with it every page."""

from recsite.staff import audit, catalogue, credentials, loads, people, rollouts, studios, system

__all__ = ["audit", "catalogue", "credentials", "loads", "people", "rollouts", "studios", "system"]
