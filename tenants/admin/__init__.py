"""The admin of studios, people, credentials, tokens and the audit trail, for platform staff."""

from tenants.admin import audit, automation, credentials, people, studios

__all__ = ["audit", "automation", "credentials", "people", "studios"]
