"""The endpoint on FastAPI: redis-py's asyncio client with hiredis, PyJWT, uvicorn with uvloop and httptools."""

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import jwt
import redis.asyncio as redis
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

CONFIG = json.loads(Path(os.environ["PEERS_FILE"]).read_text())
SECRET = base64.b64decode(CONFIG["secret"])
ALLOCATION = base64.b64decode(CONFIG["allocation"])
VERSIONS = {int(code): name for code, name in CONFIG["versions"].items()}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold one pool of connections for as long as the application runs."""
    app.state.redis = redis.Redis(host=CONFIG["redis_host"], port=CONFIG["redis_port"])
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)
bearer = HTTPBearer()


async def claims_of(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> dict[str, Any]:
    """Return the claims of a good token."""
    try:
        return jwt.decode(
            credentials.credentials,
            SECRET,
            algorithms=["HS256"],
            audience=CONFIG["audience"],
            issuer=CONFIG["issuer"],
            options={"require": ["exp", "iat", "aud", "iss"]},
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"}) from None


@app.get("/v1/recommendations")
async def recommendation(
    request: Request, claims: Annotated[dict[str, Any], Depends(claims_of)], player_id: str | None = None
) -> dict[str, Any]:
    """Answer what the player's version has for them."""
    player = claims.get("sub") or player_id
    if player is None or player_id not in {None, player}:
        raise HTTPException(400)
    digest = hashlib.md5(f"{CONFIG['salt']}:{player}".encode(), usedforsecurity=False).hexdigest()
    version = VERSIONS[ALLOCATION[int(digest[:15], 16) % 10_000]]
    value = await request.app.state.redis.get(f"{CONFIG['model']}:{version}:{player}")
    if value is None:
        raise HTTPException(404)
    return {"model": CONFIG["model"], "version": version, "recommendation": json.loads(value)}
