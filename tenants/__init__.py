"""Who may call and who may click: studios, members and roles, credentials, the audit trail."""
