"""The endpoint on FastAPI, redis-py and PyJWT."""
