"""The contenders of `make bench-serving`: how each is made ready and started, on one core, as for production.

Peers are in `benchmarks/peers/`, written as their communities write such an endpoint. They do the same job for less:
they know one studio, one model and one secret, keep no counts, limit nobody and send no ETag.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.site import ROOT, BenchSite
from recsite.embedded import free_port

PEERS = ROOT / "benchmarks" / "peers"
BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
GO_LIBRARIES = Path("/usr/share/gocode")
NGINX_MODULE = Path("/usr/lib/nginx/modules/ngx_http_lua_module.so")
NGINX_LIBRARIES = (
    Path("/usr/share/lua/5.1/nginx/redis.lua"),
    Path("/usr/share/lua/5.1/resty/core.lua"),
    Path("/usr/share/lua/5.1/cjson"),
)


class NotReady(RuntimeError):
    """A contender could not be built, or did not start; the message says what was said."""


@dataclass(frozen=True)
class Launch:
    """A process to start.

    Attributes:
        command: what to run, in the project's folder.
        environment: variables besides this process's own.
    """

    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Contender:
    """One that can be asked over HTTP.

    Attributes:
        name: as options name it.
        title: as tables name it.
        how: how it is built and run, in a sentence for docs/performance.md.
        missing: gives None, or a sentence that says what is not installed and how to get it.
        build: makes it ready once; gives nothing.
        launch: gives what to start, for a port and megabytes of block cache.
        reads: whether it answers recommendations (the empty handler does not).
        has_block_cache: whether there is a second case with it on.
    """

    name: str
    title: str
    how: str
    launch: Callable[[BenchSite, int, int], Launch]
    missing: Callable[[], str | None] = lambda: None
    build: Callable[[BenchSite], None] = lambda _: None
    reads: bool = True
    has_block_cache: bool = False


def lane_launch(site: BenchSite, port: int, block_cache_mb: int, *, workers: int = 1, url: str | None = None) -> Launch:
    """Return the lane's command; a lane's state is kept apart from other lanes'."""
    command = [sys.executable, "manage.py", "lane", "--port", str(port), "--metrics-port", str(free_port())]
    command += ["--workers", str(workers), "--block-cache-mb", str(block_cache_mb)]
    environment = {
        # A lane trusts public keys; it must do without the one that signs.
        "RECSITE_SNAPSHOT_PRIVATE_KEY": "",
        "RECSITE_VAR_DIR": str(site.folder / "lane" / str(port)),
        **({"RECSITE_REDIS_URL": url} if url else {}),
    }
    return Launch(command, environment)


def _drf(site: BenchSite, port: int, _: int) -> Launch:
    command = [sys.executable, "-m", "granian", "recsite.wsgi:application", "--interface", "wsgi", "--http", "1"]
    command += ["--no-ws", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--blocking-threads", "8"]
    return Launch(command, {"RECSITE_SNAPSHOT_PRIVATE_KEY": "", "RECSITE_VAR_DIR": str(site.folder / "lane" / "drf")})


def _fastapi(site: BenchSite, port: int, _: int) -> Launch:
    command = [str(BENCH_PYTHON), "-m", "uvicorn", "benchmarks.peers.fastapi.main:app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--loop", "uvloop", "--http", "httptools"]
    command += ["--no-access-log", "--log-level", "warning"]
    return Launch(command, _peer(site, port))


def _fastapi_missing() -> str | None:
    if BENCH_PYTHON.exists():
        return None
    return "its Python packages are not installed: `make bench-serving` installs them (requirements/bench.txt)"


def _fastify_folder(site: BenchSite) -> Path:
    return site.folder / "fastify"


def _fastify_build(site: BenchSite) -> None:
    """Install the pinned packages below var/, once for each package.json."""
    folder = _fastify_folder(site)
    folder.mkdir(exist_ok=True)
    wanted = (PEERS / "fastify" / "package.json").read_text()
    installed = folder / "installed.json"
    shutil.copy(PEERS / "fastify" / "server.js", folder)
    if installed.exists() and installed.read_text() == wanted:
        return
    (folder / "package.json").write_text(wanted)
    command = [_tool("npm"), "install", "--no-package-lock", "--omit=dev", "--no-audit", "--no-fund"]
    _run([*command, "--ignore-scripts"], folder, {})
    installed.write_text(wanted)


def _fastify(site: BenchSite, port: int, _: int) -> Launch:
    server = _fastify_folder(site) / "server.js"
    return Launch([_tool("node"), str(server)], {**_peer(site, port), "NODE_ENV": "production"})


def _go_build(site: BenchSite) -> None:
    environment = {"GOPATH": str(GO_LIBRARIES), "GO111MODULE": "off", "GOCACHE": str(site.folder / "go-cache")}
    _run([_tool("go"), "build", "-o", str(site.folder / "go-peer"), "."], PEERS / "go", environment)


def _go(site: BenchSite, port: int, _: int) -> Launch:
    # One core allowed is one P: Go reads that from the affinity by itself.
    return Launch([str(site.folder / "go-peer")], _peer(site, port))


def _go_missing() -> str | None:
    packages = {
        "golang-go": shutil.which("go") is not None,
        "golang-github-gomodule-redigo-dev": (GO_LIBRARIES / "src/github.com/gomodule/redigo").exists(),
        "golang-github-golang-jwt-jwt-dev": (GO_LIBRARIES / "src/github.com/golang-jwt/jwt").exists(),
    }
    return _debian(packages)


def _nginx(site: BenchSite, port: int, _: int) -> Launch:
    folder = site.folder / "nginx"
    folder.mkdir(exist_ok=True)
    template = Template((PEERS / "nginx" / "nginx.conf.template").read_text())
    configuration = folder / "nginx.conf"
    configuration.write_text(template.safe_substitute(FOLDER=folder, SOURCE=PEERS / "nginx", PORT=port))
    command = [_tool("nginx"), "-c", str(configuration), "-p", str(folder), "-e", str(folder / "start.log")]
    return Launch(command, _peer(site, port))


def _nginx_missing() -> str | None:
    packages = {
        "nginx-light": _which("nginx") is not None,
        "libnginx-mod-http-lua": NGINX_MODULE.exists(),
        "lua-nginx-redis": NGINX_LIBRARIES[0].exists(),
        "lua-resty-core": NGINX_LIBRARIES[1].exists(),
        "lua-cjson": NGINX_LIBRARIES[2].exists(),
    }
    return _debian(packages)


def _empty(_site: BenchSite, port: int, _: int) -> Launch:
    command = [sys.executable, "-m", "granian", "benchmarks.peers.empty.main:application", "--interface", "rsgi"]
    command += ["--http", "1", "--no-ws", "--loop", "uvloop", "--runtime-mode", "st", "--workers", "1"]
    return Launch([*command, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"], {})


def _empty_lane(_site: BenchSite, port: int, _: int) -> Launch:
    return Launch([sys.executable, "-m", "benchmarks.peers.empty.lane", str(port)], {})


CONTENDERS = (
    Contender(
        "lane",
        "recsite lane",
        "`manage.py lane --workers 1`, with everything on: metrics, exposure counts, rate limits, ETag, deadlines.",
        lane_launch,
        has_block_cache=True,
    ),
    Contender(
        "drf",
        "recsite DRF door",
        "`granian recsite.wsgi:application --interface wsgi --http 1 --workers 1 --blocking-threads 8`, as "
        "docs/production.md runs the dashboard's process.",
        _drf,
    ),
    Contender(
        "fastapi",
        "FastAPI + redis-py",
        "async endpoint, redis-py's asyncio client with hiredis and one pool, PyJWT in a dependency; uvicorn with "
        "uvloop and httptools, one worker, no access log.",
        _fastapi,
        missing=_fastapi_missing,
    ),
    Contender(
        "fastify",
        "Fastify + ioredis",
        "ioredis with `enableAutoPipelining`, fast-jwt with its `cache`, a response schema for fast-json-stringify; "
        "`NODE_ENV=production`, no logger.",
        _fastify,
        missing=lambda: _debian({"nodejs": _which("node") is not None, "npm": _which("npm") is not None}),
        build=_fastify_build,
    ),
    Contender(
        "go",
        "Go net/http + redigo",
        "net/http's own server, a redigo pool that keeps its connections, golang-jwt, the stored JSON passed on as "
        "`json.RawMessage`; Debian's packages.",
        _go,
        missing=_go_missing,
        build=_go_build,
    ),
    Contender(
        "nginx",
        "nginx + Lua",
        "one worker, no access log; nginx.redis with kept connections, cjson, the stored JSON passed on as it is. No "
        "JWT library for Lua is in Debian, so HS256 is libcrypto's HMAC through LuaJIT's FFI.",
        _nginx,
        missing=_nginx_missing,
    ),
    Contender(
        "empty",
        "granian, empty handler",
        "a limit: an RSGI application that answers 200 with nothing; `--runtime-mode st --loop uvloop`, one worker.",
        _empty,
        reads=False,
    ),
    Contender(
        "empty-lane",
        "lane's server, empty handler",
        "a limit: the same from `serving/lane/http11.py`, which the lane is made of.",
        _empty_lane,
        reads=False,
    ),
)
# Not asked over HTTP, so not among them: the other limit.
REDIS_BENCHMARK = "redis-benchmark"


def redis_benchmark_missing() -> str | None:
    """Say how to get redis-benchmark where it is not installed."""
    return _debian({"redis-tools": shutil.which("redis-benchmark") is not None})


def _peer(site: BenchSite, port: int) -> dict[str, str]:
    return {"PEERS_FILE": str(site.folder / "peers.json"), "PORT": str(port)}


def _which(name: str) -> str | None:
    # Debian keeps servers where users' paths do not look.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def _tool(name: str) -> str:
    found = _which(name)
    assert found is not None, f"{name} is missing, and `missing` did not say so"
    return found


def _debian(packages: Mapping[str, bool]) -> str | None:
    absent = [name for name, is_there in packages.items() if not is_there]
    return f"not installed here; on Debian: apt install {' '.join(absent)}" if absent else None


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotReady(f"{' '.join(command)}: {done.stderr[-2000:]}")
