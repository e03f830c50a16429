"""The API's resources that this app has: models, versions, loads, rollouts. Its foundations are in `tenants.api`."""
