"""The API described: the OpenAPI document and the page that shows it."""
