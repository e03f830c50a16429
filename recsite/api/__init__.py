"""The API for programs: /api/v1/, its OpenAPI documents and the page that shows them."""
