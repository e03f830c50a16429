"""The API's foundations (who calls, errors, pages, idempotency, schema) and its resources that this app has."""
