"""Django settings, all of them derived from `recsite.environment.Environment`."""

from datetime import timedelta
from typing import Any

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from pydantic import ValidationError
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsite import __version__
from recsite.environment import ASSETS_DIR, Environment, environment_file, errors_of
from recsite.postgresql.limits import options_of

try:
    ENV = Environment(_env_file=environment_file())  # type: ignore[call-arg]  # pydantic-settings' own argument
    problem = " ".join(f"{found.id}: {found.message} {found.hint}" for found in errors_of(ENV))
except ValidationError as error:
    problem = "; ".join(f"RECSITE_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()) + "."
if problem:
    raise ImproperlyConfigured(
        f"{problem} Run `make demo` for a working set-up on this machine; docs/production.md explains your own "
        "installation."
    )

DEBUG = ENV.debug
SECRET_KEY = ENV.secret_key.get_secret_value()
ALLOWED_HOSTS = ENV.allowed_hosts
CSRF_TRUSTED_ORIGINS = ENV.csrf_trusted_origins

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_prometheus",
    "django_celery_beat",
    "rest_framework",
    "drf_spectacular",
    "axes",
    "csp",
    "recsite",
    "recsite.dashboard",
    "recsite.api",
    "recsite.staff",
    "tenants",
    "models_registry",
    "serving",
]

MIDDLEWARE = [
    "recsite.middleware.names_requests",
    *(["recsite.middleware.traces_requests"] if ENV.otlp_endpoint is not None else []),
    "recsite.middleware.answers_for_machines",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "recsite.middleware.admin_content_security_policy",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "recsite.urls"
WSGI_APPLICATION = "recsite.wsgi.application"
APPEND_SLASH = False

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ASSETS_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            # Nearly every template uses these, so none loads them.
            "builtins": [
                "django.templatetags.static",
                "recsite.templatetags.words",
                "recsite.dashboard.templatetags.dashboard",
                "recsite.dashboard.templatetags.loads",
                "recsite.dashboard.templatetags.versions",
            ],
        },
    },
]

# --- The admin (what it shows is in recsite/staff) ----------------------------------------------------------

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "recsite admin",
    "SITE_HEADER": "recsite",
    "SITE_SUBHEADER": "Platform staff",
    "SITE_SYMBOL": "conversion_path",
    "SITE_URL": "/",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "recsite.staff.overview.favicon"}],
    "SHOW_BACK_BUTTON": False,
    "BORDER_RADIUS": "8px",
    "STYLES": ["recsite.staff.overview.stylesheet"],
    "DASHBOARD_CALLBACK": "recsite.staff.overview.overview",
    "SIDEBAR": {"navigation": "recsite.staff.overview.navigation"},
    "COLORS": {
        "primary": {
            "50": "#eef2ff",
            "100": "#e0e7ff",
            "200": "#c7d2fe",
            "300": "#a5b4fc",
            "400": "#8aa2ff",
            "500": "#6f86f2",
            "600": "#3454d1",
            "700": "#2b45ad",
            "800": "#253a8e",
            "900": "#1f2f70",
            "950": "#141d45",
        }
    },
}

# The one folder that is written to.
VAR_DIR = ENV.var_dir
# What runs, for metrics to say.
RELEASE = (__version__, ENV.commit)

# --- Database -------------------------------------------------------------------------------------------------------

# A kept connection is looked at before a request or a task uses it: the database may have been restarted since.
DATABASES: dict[str, Any] = {
    "default": dj_database_url.parse(ENV.database_url, conn_max_age=60, conn_health_checks=True)
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Several processes share the file: readers must not block writers, and a writer waits for its turn.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
elif DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # Patient, as tasks and commands are; `recsite.wsgi`, which people and games wait for, is less so.
    DATABASES["default"]["ENGINE"] = "recsite.postgresql"
    _options = DATABASES["default"].setdefault("OPTIONS", {})
    _options |= options_of(ENV, statement_seconds=ENV.database_task_seconds, given=_options.get("options", ""))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Redis ----------------------------------------------------------------------------------------------------------

REDIS_PREFIX = ENV.redis_prefix


def _redis_cache(url: str, *, timeout_seconds: float) -> dict[str, Any]:
    return {
        "BACKEND": "django_redis.cache.RedisCache",
        # A list, since text would be cut at its commas.
        "LOCATION": [url],
        "KEY_PREFIX": ENV.redis_prefix,
        "OPTIONS": {
            "CONNECTION_FACTORY": "serving.redis.clients.TablesConnectionFactory",
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "SOCKET_TIMEOUT": timeout_seconds,
            "SOCKET_CONNECT_TIMEOUT": timeout_seconds,
            # redis-py would try again for up to a minute.
            "CONNECTION_POOL_KWARGS": {"retry": Retry(NoBackoff(), 0), "health_check_interval": 15},
        },
    }


# "tables" is what the DRF door answers from: one deadline, no retry. Loading and publishing have clients of their own.
CACHES = {
    "default": _redis_cache(ENV.cache_url or ENV.redis_url, timeout_seconds=1.0),
    "tables": _redis_cache(ENV.redis_url, timeout_seconds=ENV.serving_deadline_ms / 1000),
}
TABLES_REDIS_URL = ENV.redis_url

# --- Signing in -----------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "tenants.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
SESSION_ENGINE = "tenants.sessions"
STAFF_SESSION_AGE = timedelta(hours=12)
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "home"
AXES_VERBOSE = False
AXES_CLIENT_IP_CALLABLE = "recsite.callers.client_address"
PROXIES = ENV.proxies
METRICS_TOKEN = ENV.metrics_token.get_secret_value() if ENV.metrics_token is not None else None
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = timedelta(minutes=10)
AXES_LOCKOUT_TEMPLATE = "dashboard/locked_out.html"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]

# --- HTTPS and browsers ---------------------------------------------------------------------------------------------

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = ENV.https_only
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ENV.https_only else None
SECURE_HSTS_SECONDS = 31_536_000 if ENV.https_only else 0
# What lies below this host, and browsers' preload lists, are decisions about a whole domain, which is not ours.
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = False
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
    },
}

STATIC_URL = "/static/"
STATICFILES_DIRS = [ASSETS_DIR / "static"]
STATIC_ROOT = ENV.static_root
WHITENOISE_USE_FINDERS = True

# --- DRF, tokens ----------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "recsite.api.schema.Schema",
    "EXCEPTION_HANDLER": "recsite.api.problems.problem_response",
    "UNAUTHENTICATED_USER": None,
}
API_REQUESTS_PER_MINUTE = ENV.api_requests_per_minute
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "recsite",
    "VERSION": "1",
    "DESCRIPTION": "Everything that the dashboard does, for programs. Errors are RFC 9457 problem documents with "
    "stable codes. Lists give `next_cursor`. A POST with an `Idempotency-Key` may be sent again.",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SORT_OPERATIONS": False,
    "SORT_OPERATION_PARAMETERS": False,
    "GENERIC_ADDITIONAL_PROPERTIES": "bool",
    "COMPONENT_SPLIT_PATCH": False,
    "ENUM_NAME_OVERRIDES": {
        "CallerKind": ["token", "person"],
        "CredentialKind": "tenants.models.CredentialKind",
        "SourceKind": "models_registry.models.SourceKind",
        "ScheduleKind": "models_registry.models.ScheduleKind",
        "Algorithm": "tenants.models.Algorithm",
        "KeyAlgorithm": ["EdDSA", "ES256", "RS256"],
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "recsite.api.described.serving.add_security",
    ],
}

TOKEN_LIFETIME = timedelta(minutes=15)
TOKEN_MASTER_KEYS = ENV.token_master_keys.get_secret_value()
TOKEN_AUDIENCE = ENV.token_audience
TOKEN_ISSUER = ENV.token_issuer
SIMPLE_JWT = {
    # Tokens are signed with a key derived for each credential (serving.formats.tokens), never with SECRET_KEY.
    "ACCESS_TOKEN_LIFETIME": TOKEN_LIFETIME,
    "AUDIENCE": TOKEN_AUDIENCE,
    "ISSUER": TOKEN_ISSUER,
    "TOKEN_TYPE_CLAIM": None,
    "JTI_CLAIM": None,
    "SIGNING_KEY": "",
}

# --- Serving --------------------------------------------------------------------------------------------------------

SERVING_URL = ENV.serving_url
SERVING_DEADLINE_MS = ENV.serving_deadline_ms
SERVING_CAPACITY = ENV.serving_capacity
SEAL_KEYS = ENV.seal_keys.get_secret_value() if ENV.seal_keys else None
SNAPSHOT_PRIVATE_KEY = ENV.snapshot_private_key.get_secret_value() if ENV.snapshot_private_key else None
SNAPSHOT_PUBLIC_KEYS = ENV.snapshot_public_keys
SNAPSHOT_POLL_SECONDS = ENV.snapshot_poll_seconds
SNAPSHOT_MAX_AGE = timedelta(hours=ENV.snapshot_max_age_hours)
LANE_STATE_DIR = VAR_DIR / "lane"

# --- Loading --------------------------------------------------------------------------------------------------------

BIGQUERY_PROJECT = ENV.bigquery_project
BIGQUERY_SCRATCH_DATASET = ENV.bigquery_scratch_dataset
BIGQUERY_MAX_BYTES_BILLED = ENV.bigquery_max_bytes_billed
BIGQUERY_API_ENDPOINT = ENV.bigquery_api_endpoint
BIGQUERY_STORAGE_ENDPOINT = ENV.bigquery_storage_endpoint
GCS_ENDPOINT = ENV.gcs_endpoint
LOAD_WORKSPACE_DIR = VAR_DIR / "loads"
LOAD_MEMORY_MB = ENV.load_memory_mb
LOAD_SPLIT_ROWS = ENV.load_split_rows
LOAD_YIELDS = ENV.load_yields
LOAD_TIME_LIMIT = timedelta(seconds=ENV.load_time_limit_seconds)

CELERY_BROKER_URL = ENV.broker_url or ENV.redis_url
if CELERY_BROKER_URL.startswith("rediss://"):
    # Where the URL names no option of TLS, Celery would take any certificate. One that it names comes before this.
    CELERY_BROKER_USE_SSL = {"ssl_cert_reqs": "required"}
# Loads have a queue of their own, so that what takes a moment (publishing, sweeping, schedules) waits behind none.
# `recsite.celery` declares both.
CELERY_TASK_ROUTES = {
    name: {"queue": "loads"} for name in ("loading.run", "loading.run_range", "loading.finish_ranges")
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = ENV.load_time_limit_seconds
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# However long the broker is away: workers and beat look for it again, at last every 30 s, and never give up.
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# A load that runs needs no broker; its message, delivered again, finds nothing to do.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # A task unacknowledged for this long is delivered again, so it must outlast the longest load.
    "visibility_timeout": ENV.load_time_limit_seconds + 600,
    "global_keyprefix": f"{ENV.redis_prefix}:celery:",
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
}
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "recsite.background.scheduler:Scheduler"
# What must run anyway; beat copies it into the database when it starts. A run that no worker took in time is dropped.
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "publishing.republish": {"task": "publishing.republish", "schedule": 15.0, "options": {"expire_seconds": 60}},
    "scheduling.start_due": {"task": "scheduling.start_due", "schedule": 15.0, "options": {"expire_seconds": 60}},
    "loading.repair": {"task": "loading.repair", "schedule": 10.0, "options": {"expire_seconds": 30}},
    "loading.sweep": {"task": "loading.sweep", "schedule": 30.0, "options": {"expire_seconds": 60}},
    "traffic.collect": {"task": "traffic.collect", "schedule": 10.0, "options": {"expire_seconds": 60}},
    "traffic.prune": {"task": "traffic.prune", "schedule": 3600.0, "options": {"expire_seconds": 3600}},
    "tenants.clean_idempotency_records": {
        "task": "tenants.clean_idempotency_records",
        "schedule": 3600.0,
        "options": {"expire_seconds": 3600},
    },
}

# --- Language, time, logs -------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "recsite.logs.TextLines"},
        "json": {"()": "recsite.logs.JsonLines", "release": "+".join(filter(None, (__version__, ENV.commit[:12])))},
    },
    "filters": {
        "one_line": {"()": "recsite.logs.OneLine"},
        "database": {"()": "recsite.middleware.DatabaseInOneLine"},
        "route": {"()": "recsite.middleware.RouteForPath"},
    },
    "handlers": {"console": {"class": "recsite.logs.Bounded", "formatter": ENV.log_format}},
    "loggers": {
        # Whoever scans the internet calls by address, all day.
        "django.security.DisallowedHost": {"filters": ["one_line"]},
        "django.request": {"filters": ["route", "database"]},
        "django.security.csrf": {"filters": ["route"]},
        # These have handlers of their own otherwise.
        **{name: {"handlers": [], "propagate": True} for name in ("django", "_granian", "celery.task")},
    },
    "root": {"handlers": ["console"], "level": ENV.log_level},
}
LOG_FORMAT = ENV.log_format
OTLP_ENDPOINT = ENV.otlp_endpoint
PROMETHEUS_EXPORT_MIGRATIONS = False
