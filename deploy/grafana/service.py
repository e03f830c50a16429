"""The page of whoever is on call: lanes, dashboards, snapshots."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row
from grafana.queries import CONTROL, DOORS, ERRORS, FALLBACKS, LANE, REQUESTS, rate, same, slowest

SERVICE = Dashboard(
    "service",
    "recsite: service",
    "Whether lanes and dashboards are there and answer, how fast, and from which snapshots.",
    [
        Row(
            "Now",
            [
                Panel(
                    "Lanes",
                    "Lanes that answer Prometheus.",
                    "none",
                    [Query(f"sum(up{{{LANE}}})")],
                    "stat",
                    ["RecsiteServiceDown", "RecsiteLaneDown"],
                    bad_from=1,
                    is_bad_below=True,
                ),
                Panel(
                    "Dashboards",
                    "Servers of the dashboard that answer Prometheus.",
                    "none",
                    [Query(f"sum(up{{{CONTROL}}})")],
                    "stat",
                    ["RecsiteDashboardDown"],
                    bad_from=1,
                    is_bad_below=True,
                ),
                Panel(
                    "Requests",
                    "Requests for recommendations at all lanes, a second.",
                    "reqps",
                    [Query(REQUESTS)],
                    "stat",
                ),
                Panel(
                    "Errors",
                    "Share of requests that end in an error of ours.",
                    "percentunit",
                    [Query(ERRORS)],
                    "stat",
                    ["RecsiteErrorShare"],
                    bad_from=0.01,
                ),
                Panel(
                    "Slowest of a hundred",
                    "Time within the lane that 99 of 100 requests about one key take at most.",
                    "s",
                    [Query(slowest(0.99, 'outcome=~"cached|redis"'))],
                    "stat",
                    ["RecsiteAnswersSlow"],
                    bad_from=0.03,
                ),
                Panel(
                    "Alerts",
                    "Alerts of recsite that fire.",
                    "none",
                    [Query('count(ALERTS{alertname=~"Recsite.+", alertstate="firing"}) or vector(0)')],
                    "stat",
                    bad_from=1,
                ),
            ],
            in_a_line=6,
        ),
        Row(
            "Requests at the lanes",
            [
                Panel(
                    "Requests by class",
                    "Each key of a batch counts; 4xx are without the 429.",
                    "reqps",
                    [Query(rate("recsite_tenant_requests_total", LANE, "class"), "{{class}}")],
                    runbooks=["RecsiteErrorShare", "RecsiteFallbackShare"],
                    is_stacked=True,
                ),
                Panel(
                    "Requests by status",
                    "A batch counts once.",
                    "reqps",
                    [Query(rate("recsite_requests_total", LANE, "status"), "{{status}}")],
                    is_stacked=True,
                ),
                Panel(
                    "Errors and fallbacks",
                    "Share of requests with an error of ours, and of answers that are fallbacks.",
                    "percentunit",
                    [
                        Query(ERRORS, "errors"),
                        Query(
                            f"({FALLBACKS} or vector(0)) / {rate('recsite_exposures_total', LANE)}",
                            "fallback",
                        ),
                    ],
                    runbooks=["RecsiteErrorShare", "RecsiteFallbackShare", "RecsiteUnexpectedErrors"],
                ),
                Panel(
                    "Tokens refused",
                    "Requests without a token that is accepted, by why.",
                    "reqps",
                    [Query(rate("recsite_token_refusals_total", LANE, "reason"), "{{reason}}")],
                    runbooks=["RecsiteTokensRefused", "RecsiteClockOff"],
                    is_stacked=True,
                ),
            ],
        ),
        Row(
            "Time to answer, within the lane",
            [
                Panel(
                    "Half of the requests",
                    "Time that half of the requests take at most, by outcome.",
                    "s",
                    [Query(slowest(0.5), "{{outcome}}")],
                ),
                Panel(
                    "99 of 100 requests",
                    "Time that 99 of 100 requests take at most, by outcome.",
                    "s",
                    [Query(slowest(0.99), "{{outcome}}")],
                    runbooks=["RecsiteAnswersSlow"],
                ),
                Panel(
                    "Requests that wait for Redis",
                    "How many of each lane's requests wait for Redis at the moment.",
                    "none",
                    [Query(f"recsite_requests_in_flight{{{LANE}}}", "{{instance}}")],
                ),
            ],
            in_a_line=3,
        ),
        Row(
            "Snapshots",
            [
                Panel(
                    "Age",
                    "Time since the control plane last signed or confirmed what a lane serves from.",
                    "s",
                    [Query(f"recsite_snapshot_age_seconds{{{LANE}}}", "{{instance}}")],
                    runbooks=["RecsiteSnapshotsNotSigned"],
                ),
                Panel(
                    "Time since Redis was read",
                    "Time since a lane last read from Redis whether there are newer snapshots.",
                    "s",
                    [Query(f"recsite_snapshot_poll_age_seconds{{{LANE}}}", "{{instance}}")],
                    runbooks=["RecsiteSnapshotsNotRead"],
                ),
                Panel(
                    "Studios known and missing",
                    "Studios that every lane knows, that are promised (ended ones too), and that one lacks.",
                    "none",
                    [
                        Query(f"min(recsite_tenants{{{LANE}}})", "known"),
                        Query(f"max(recsite_tenants_expected{{{LANE}}})", "promised", is_dashed=True),
                        Query(f"max(recsite_snapshots_missing{{{LANE}}})", "missing"),
                    ],
                    runbooks=["RecsiteSnapshotsMissing", "RecsiteLaneKnowsNobody"],
                ),
                Panel(
                    "Refused",
                    "Snapshots that lanes refused, by why.",
                    "ops",
                    [Query(rate("recsite_snapshot_refusals_total", LANE, "reason"), "{{reason}}")],
                    runbooks=["RecsiteSnapshotsRefused"],
                ),
            ],
        ),
        Row(
            "Lanes and machines",
            [
                Panel(
                    "Workers",
                    "Worker processes of each lane that serve.",
                    "none",
                    [Query(f"recsite_workers{{{LANE}}}", "{{instance}}")],
                    runbooks=["RecsiteWorkersMissing"],
                ),
                Panel(
                    "Releases",
                    "Processes by what they run; more than one release for long is no upgrade any more.",
                    "none",
                    [
                        Query(
                            f"count by (job, version, commit) (recsite_build_info{{{DOORS}}})",
                            "{{job}} {{version}} {{commit}}",
                        ),
                        Query(
                            "count by (component, version, commit) (max by (component, version, commit) "
                            f"(recsite_background_build_info{{{CONTROL}}}))",
                            "{{component}} {{version}} {{commit}}",
                        ),
                    ],
                    runbooks=["RecsiteBuildsMixed"],
                ),
                Panel(
                    "Clocks",
                    "By how much a lane's clock differs, at least, from the control plane's.",
                    "s",
                    [Query(f"recsite_clock_skew_seconds{{{LANE}}}", "{{instance}}")],
                    runbooks=["RecsiteClockOff"],
                ),
                Panel(
                    "Free on disk",
                    "What is free of the disk below RECSITE_VAR_DIR.",
                    "percentunit",
                    [
                        Query(f"recsite_var_free_ratio{{{DOORS}}}", "{{job}} {{instance}}"),
                        Query(f"min by (component) (recsite_background_var_free_ratio{{{CONTROL}}})", "{{component}}"),
                    ],
                    runbooks=["RecsiteVarDiskFull"],
                ),
                Panel(
                    "Defects",
                    "Requests that met a defect of this program, and numbers that could not be left for Prometheus.",
                    "ops",
                    [
                        Query(rate("recsite_unexpected_errors_total", LANE), "requests"),
                        Query(rate("recsite_numbers_write_failures_total", LANE), "numbers not written"),
                    ],
                    runbooks=["RecsiteUnexpectedErrors", "RecsiteVarDiskFull"],
                ),
            ],
            in_a_line=3,
        ),
        Row(
            "Dashboards",
            [
                Panel(
                    "Pages, API and tokens by status",
                    "Answers of the dashboards' servers, those of their own serving door too.",
                    "reqps",
                    [Query(rate("django_http_responses_total_by_status_total", CONTROL, "status"), "{{status}}")],
                    is_stacked=True,
                ),
                Panel(
                    "Tokens minted and not",
                    "Requests for a token that got one, and those that got none, by why.",
                    "reqps",
                    [
                        Query(rate("recsite_tokens_minted_total", CONTROL), "minted"),
                        Query(rate("recsite_token_mint_failures_total", CONTROL, "reason"), "{{reason}}"),
                    ],
                    runbooks=["RecsiteTokensRefused"],
                ),
                Panel(
                    "Connections of the database",
                    "All that PostgreSQL has, by what they do, and as a dashed line the most that it takes.",
                    "none",
                    [
                        Query(same("recsite_db_connections", CONTROL, "state"), "{{state}}"),
                        Query(same("recsite_db_connections_max", CONTROL), "limit", is_dashed=True),
                    ],
                    runbooks=["RecsiteDatabaseConnections"],
                ),
                Panel(
                    "Errors of the database",
                    "Connections and statements that the database did not do.",
                    "ops",
                    [Query(rate("recsite_db_errors_total", CONTROL, "act"), "{{act}}")],
                    runbooks=["RecsiteDashboardDown"],
                ),
            ],
            in_a_line=2,
        ),
    ],
)
