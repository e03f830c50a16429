"""Every setting an operator can give, typed and bounded: `RECSITE_<NAME>` in the environment or in a file.

The file is the one `RECSITE_ENV_FILE` names; without that variable it is `var/demo.env`, which the command `demo`
writes, so that every other command finds the demo by itself. Variables win over the file.
"""

import json
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import dj_database_url
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serving.formats.snapshot import parse_private_key, parse_public_keys
from serving.formats.tokens import parse_master_keys
from serving.redis.url import RedisUrl

T = TypeVar("T")

# The checkout, or the folder of packages that recsite was installed into, where nothing is ever written.
BASE_DIR = Path(__file__).resolve().parent.parent
# A wheel has templates and static files inside the package; a checkout has them beside it.
_PACKED_DIR = Path(__file__).resolve().parent / "assets"
_IS_INSTALLED = _PACKED_DIR.is_dir()
ASSETS_DIR = _PACKED_DIR if _IS_INSTALLED else BASE_DIR
DEFAULT_VAR_DIR = (Path.cwd() if _IS_INSTALLED else BASE_DIR) / "var"


def environment_file() -> Path:
    """Return the settings file that is read (it need not exist)."""
    return Path(os.environ.get("RECSITE_ENV_FILE", DEFAULT_VAR_DIR / "demo.env"))


def _read(parse: Callable[[str], T], text: str, words: str) -> T:
    """Return what a text says; where it cannot be read, a ValueError of these words alone."""
    try:
        return parse(text)
    except ValueError:
        raise ValueError(words) from None


class Environment(BaseSettings):
    """What an operator sets. Names carry units; a secret has no default."""

    model_config = SettingsConfigDict(env_prefix="RECSITE_", env_file_encoding="utf-8", extra="ignore", frozen=True)

    debug: bool = False
    secret_key: SecretStr = Field(min_length=32)
    # pydantic-settings' own reading of JSON would end in a traceback instead of a sentence.
    allowed_hosts: Annotated[list[str], NoDecode] = ["localhost", "127.0.0.1"]
    csrf_trusted_origins: Annotated[list[str], NoDecode] = []
    # Cookies and HSTS for HTTPS; only the demo and tests, which speak plain HTTP on loopback, turn this off.
    https_only: bool = True
    # Of those that stand before the dashboard, each appending to X-Forwarded-For whom it had a request from.
    proxies: int = Field(default=0, ge=0, le=10)
    # What Prometheus sends as its bearer token; without one the dashboard's /metrics is not there.
    metrics_token: SecretStr | None = Field(default=None, min_length=16)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    # text is for people; json is a JSON object a line, for whatever collects logs.
    log_format: str = Field(default="text", pattern="^(text|json)$")

    # Whereto traces are sent, by OTLP over HTTP: http://collector:4318. Without it there are none.
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/?#]+[^\s?#]*$")

    # The one folder that processes write to: what a lane knows, numbers, loads that spill.
    var_dir: Path = DEFAULT_VAR_DIR
    # Where `collectstatic` puts the static files, for a proxy that serves them; the dashboard can do without.
    static_root: Path | None = None
    # Of what was built, for the image to say.
    commit: str = Field(default="", pattern="^[0-9a-f]{0,40}$")
    database_url: str = f"sqlite:///{DEFAULT_VAR_DIR / 'recsite.sqlite3'}"
    # Of PostgreSQL. A request's statement, and one of a task, a command or a load; migrations have no such limit.
    database_request_seconds: int = Field(default=5, ge=1, le=60)
    database_task_seconds: int = Field(default=600, ge=1, le=24 * 3600)
    database_lock_seconds: int = Field(default=10, ge=1, le=600)
    database_idle_transaction_seconds: int = Field(default=60, ge=1, le=3600)
    database_connect_seconds: int = Field(default=3, ge=2, le=60)
    # How long what was sent may stay unacknowledged, before the connection counts as broken.
    database_unacknowledged_seconds: int = Field(default=15, ge=1, le=600)
    # One Redis does for everything; broker and cache can each be given one of their own, and must be where the tables
    # are behind Sentinel or in a cluster. Forms: redis://, rediss://, unix://, for the tables and the cache also
    # redis+sentinel://host:port,host:port/service/database, for the tables redis+cluster://host:port,host:port; with
    # TLS rediss+sentinel:// and rediss+cluster:// (serving/redis/url.py).
    redis_url: str = "redis://127.0.0.1:6379/0"
    broker_url: str | None = None
    cache_url: str | None = None
    redis_prefix: str = Field(default="recsite", pattern=r"^[A-Za-z0-9_.-]{1,32}$")

    # "id:base64url,id2:base64url": the first mints tokens, every one listed is accepted.
    token_master_keys: SecretStr
    token_audience: str = "recsite"  # noqa: S105 - a name, not a secret
    token_issuer: str = "recsite"  # noqa: S105 - as above
    # As these: the first seals the blocks of new tables, every one listed opens. Without any no table is sealed: a
    # release that knows no seals can read no sealed one. Held by loaders and by what serves.
    seal_keys: SecretStr | None = None
    # "key_id:base64url" of the 32-byte Ed25519 private key; only the control plane holds it.
    snapshot_private_key: SecretStr | None = None
    # "key_id:base64url,…" of the public keys that serving trusts.
    snapshot_public_keys: str

    # What pages and commands show as the address of the lane.
    serving_url: str = "http://127.0.0.1:8001"
    serving_deadline_ms: int = Field(default=50, gt=0, le=200)
    serving_capacity: int = Field(default=8192, ge=1, description="requests that wait for Redis in one process")
    snapshot_poll_seconds: float = Field(default=1.0, gt=0, le=60)
    snapshot_max_age_hours: int = Field(default=72, ge=1, le=24 * 30)

    # Of one automation token, or of one person, on the API below /api/v1/.
    api_requests_per_minute: int = Field(default=600, ge=1)

    bigquery_project: str | None = None
    # Results of queries pass through a dataset of this name in that project, followed by the location ("…_us").
    bigquery_scratch_dataset: str = Field(default="recsite_scratch", pattern=r"^[A-Za-z0-9_]{1,100}$")
    bigquery_max_bytes_billed: int = Field(default=2**40, ge=2**20, description="of one query; 1 TiB")
    # For an emulator: the REST and the Storage Read addresses, without credentials.
    bigquery_api_endpoint: str | None = None
    bigquery_storage_endpoint: str | None = None
    gcs_endpoint: str | None = None

    load_memory_mb: int = Field(default=512, ge=128, description="memory DuckDB may use before it spills to disk")
    # A BigQuery source with at least so many rows is cut into ranges, which all workers of the queue share.
    load_split_rows: int = Field(default=20_000_000, ge=1000)
    # A load works only when no other process on its machine wants the processor. To be turned off where loaders have
    # processors of their own, as containers with a share each have: there it protects nobody.
    load_yields: bool = True
    load_time_limit_seconds: int = Field(default=3 * 3600, ge=60)

    @field_validator("allowed_hosts", "csrf_trusted_origins", mode="before")
    @classmethod
    def _is_json(cls, typed: Any) -> Any:
        words = 'write a JSON list of texts, such as ["one", "two"]'
        return _read(json.loads, typed, words) if isinstance(typed, str) else typed

    @field_validator("database_url")
    @classmethod
    def _is_a_database(cls, url: str) -> str:
        words = "write postgres://user:password@host:5432/database, percent-encoded where a part holds : / ? # or @"
        _read(dj_database_url.parse, url, words)
        return url

    # What is wrong with a key is said without repeating any of it.
    @field_validator("token_master_keys", "seal_keys")
    @classmethod
    def _are_keys_by_id(cls, keys: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # Seal keys may be left out, or empty.
        if info.field_name == "seal_keys" and (keys is None or not keys.get_secret_value()):
            return None
        words = "write id:key, or several separated by commas; a key is base64url of 32 bytes or more"
        _read(parse_master_keys, keys.get_secret_value() if keys else "", words)
        return keys

    @field_validator("snapshot_private_key")
    @classmethod
    def _is_a_private_key(cls, key: SecretStr | None) -> SecretStr | None:
        # Empty is as good as none: so a process is kept from one that its file has.
        if key:
            words = "write id:key; the key is base64url of the 32 bytes of an Ed25519 private key"
            _read(parse_private_key, key.get_secret_value(), words)
        return key

    @field_validator("snapshot_public_keys")
    @classmethod
    def _are_public_keys(cls, keys: str) -> str:
        words = "a key is base64url of the 32 bytes of an Ed25519 public key"
        _read(parse_public_keys, keys, f"write id:key, or several separated by commas; {words}")
        return keys

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, url: str) -> str:
        RedisUrl.parse(url)
        return url

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, url: str | None) -> str | None:
        if url is not None and url.startswith(("redis+sentinel:", "redis+cluster:", "rediss+", "unix:")):
            raise ValueError(
                "Celery's broker is one Redis (redis://, rediss://, redis+socket:///path) or another that Celery knows"
            )
        return url

    @field_validator("cache_url")
    @classmethod
    def _is_a_cache(cls, url: str | None) -> str | None:
        if url is not None and RedisUrl.parse(url).kind == "cluster":
            raise ValueError("the cache is one Redis (redis://, rediss://), or one behind Sentinel (redis+sentinel://)")
        return url


class Finding(NamedTuple):
    """What is wrong with settings that are each fine alone: `recsite.checks` makes a Django system check of it."""

    id: str
    message: str
    hint: str


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def errors_of(env: Environment) -> Iterator[Finding]:
    """Yield what cannot work together."""
    if env.snapshot_private_key:
        key_id, key = parse_private_key(env.snapshot_private_key.get_secret_value())
        listed = parse_public_keys(env.snapshot_public_keys).get(key_id)
        if listed is None or listed.public_bytes_raw() != key.public_key().public_bytes_raw():
            yield Finding(
                "recsite.E001",
                "RECSITE_SNAPSHOT_PUBLIC_KEYS does not list the public half of RECSITE_SNAPSHOT_PRIVATE_KEY.",
                "List it under the same id: serving trusts nothing else.",
            )
    kind = RedisUrl.parse(env.redis_url).kind
    if env.broker_url is None and (kind != "one" or env.redis_url.startswith("unix:")):
        yield Finding(
            "recsite.E002",
            "RECSITE_BROKER_URL is needed: Celery's broker is neither behind Sentinel nor in a cluster.",
            "Name a Redis of its own (redis://host:6379/0); a Unix socket is redis+socket:///path.",
        )
    if env.otlp_endpoint is not None and not all(
        map(_is_there, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))
    ):
        yield Finding(
            "recsite.E004",
            "RECSITE_OTLP_ENDPOINT is set, and OpenTelemetry is not installed.",
            "Install recsite[otel], or remove the setting.",
        )
    if kind == "cluster" and env.cache_url is None:
        yield Finding(
            "recsite.E003",
            "RECSITE_CACHE_URL is needed: the cache cannot be in a cluster.",
            "Name one Redis (redis://, rediss://), or one behind Sentinel (redis+sentinel://).",
        )


def warnings_of(env: Environment) -> Iterator[Finding]:
    """Yield what works, and what an installation that strangers reach should not be left with."""
    if env.database_url.startswith("sqlite"):
        yield Finding(
            "recsite.W001",
            "The database is SQLite, which only processes on this machine can share.",
            "Set RECSITE_DATABASE_URL to a PostgreSQL.",
        )
    if env.https_only and not env.proxies:
        yield Finding(
            "recsite.W002",
            "RECSITE_PROXIES is 0 and the dashboard's process speaks no TLS: everybody seems to come from the proxy.",
            "Set it to the number of proxies before the dashboard; failed sign-ins are counted by address.",
        )
    if set(env.allowed_hosts) <= {"localhost", "127.0.0.1"}:
        yield Finding(
            "recsite.W003",
            "RECSITE_ALLOWED_HOSTS names this machine alone.",
            "List the host that browsers and programs use for the dashboard.",
        )
    if env.https_only and env.serving_url.startswith("http://"):
        yield Finding(
            "recsite.W004",
            "RECSITE_SERVING_URL begins with http://: pages would show commands that send tokens in the clear.",
            "Give the https:// address that games use.",
        )
    if env.metrics_token is None:
        yield Finding(
            "recsite.W005",
            "RECSITE_METRICS_TOKEN is not set, so that the dashboard's process has no /metrics.",
            "Set 16 characters or more, and have Prometheus send them as its bearer token.",
        )
