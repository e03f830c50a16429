"""The admin of studios, people, credentials and the audit trail, for platform staff."""

from tenants.admin import audit, credentials, people, studios

__all__ = ["audit", "credentials", "people", "studios"]
