"""The page about loads, workers and tasks."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row
from grafana.queries import CONTROL, LOADED, LOADED_SECONDS, TASK_SECONDS, same, same_hour

LOADS = Dashboard(
    "loads",
    "recsite: loads",
    "What waits, what was loaded or rejected, and whether worker, loader and beat do their tasks.",
    [
        Row(
            "Now",
            [
                Panel(
                    "Waiting",
                    "Loads that no worker has begun.",
                    "none",
                    [Query(same("recsite_loads_waiting", CONTROL))],
                    "stat",
                ),
                Panel(
                    "Oldest waits for",
                    "For how long the oldest of them has waited.",
                    "s",
                    [Query(same("recsite_load_oldest_waiting_seconds", CONTROL))],
                    "stat",
                    ["RecsiteQueueOld"],
                    bad_from=3600,
                ),
                Panel("Running", "Loads at work.", "none", [Query(same("recsite_loads_running", CONTROL))], "stat"),
                Panel(
                    "Versions late",
                    "Versions whose data is older than their target for freshness.",
                    "none",
                    [Query(same("recsite_versions_late", CONTROL))],
                    "stat",
                    ["RecsiteDataLate"],
                    bad_from=1,
                ),
                Panel(
                    "Latest is late by",
                    "How far the latest of them is beyond its target.",
                    "s",
                    [Query(same("recsite_most_late_seconds", CONTROL))],
                    "stat",
                    ["RecsiteDataLate"],
                ),
                Panel(
                    "Tables lost",
                    "Tables in use of which Redis lost a part and that are not repaired.",
                    "none",
                    [Query(same("recsite_tables_lost", CONTROL))],
                    "stat",
                    ["RecsiteTablesLost"],
                    bad_from=1,
                ),
            ],
            in_a_line=6,
        ),
        Row(
            "Loads within the hour before",
            [
                Panel(
                    "Ended, by how",
                    "Loads of the chosen studios that ended.",
                    "short",
                    [Query(f"sum by (state) ({same_hour(*LOADED, 'tenant', 'state')})", "{{state}}")],
                    runbooks=["RecsiteLoadsFail", "RecsiteLoadRejected"],
                    is_stacked=True,
                ),
                Panel(
                    "Time of a load",
                    "Mean time of loads that ended, from when a worker began them.",
                    "s",
                    [
                        Query(
                            f"sum by (tenant) ({same_hour(*LOADED_SECONDS, 'tenant', 'state')})"
                            f" / (sum by (tenant) ({same_hour(*LOADED, 'tenant', 'state')}) > 0)",
                            "{{tenant}}",
                        )
                    ],
                ),
                Panel(
                    "Rows written",
                    "Rows that loads wrote which ended.",
                    "short",
                    [Query(same_hour("recsite_load_rows_total", LOADED[1], "tenant"), "{{tenant}}")],
                    is_stacked=True,
                ),
                Panel(
                    "Rejected, by check",
                    "Loads that checks stopped, by studio and kind of check.",
                    "short",
                    [
                        Query(
                            same_hour("recsite_load_rejections_total", LOADED[1], "tenant", "check"),
                            "{{tenant}} {{check}}",
                        )
                    ],
                    runbooks=["RecsiteLoadRejected"],
                    is_stacked=True,
                ),
            ],
        ),
        Row(
            "Queues",
            [
                Panel(
                    "Loads that wait and run",
                    "Loads that no worker has begun, and loads at work.",
                    "none",
                    [
                        Query(same("recsite_loads_waiting", CONTROL), "waiting"),
                        Query(same("recsite_loads_running", CONTROL), "running"),
                    ],
                    runbooks=["RecsiteQueueOld"],
                ),
                Panel(
                    "Oldest waiting load",
                    "For how long the oldest load that no worker has begun has waited.",
                    "s",
                    [Query(same("recsite_load_oldest_waiting_seconds", CONTROL), "oldest")],
                    runbooks=["RecsiteQueueOld"],
                ),
                Panel(
                    "Messages in the broker",
                    "Messages that no worker has taken, by queue.",
                    "none",
                    [Query(same("recsite_queue_depth", CONTROL, "queue"), "{{queue}}")],
                    runbooks=["RecsiteQueueOld"],
                ),
            ],
            in_a_line=3,
        ),
        Row(
            "Worker, loader, beat and their tasks",
            [
                Panel(
                    "Last sign of life",
                    "Time since any worker, loader or beat gave a sign of life; one is due every 5 s.",
                    "s",
                    [
                        Query(
                            f"time() - {same('recsite_heartbeat_timestamp_seconds', CONTROL, 'component')}",
                            "{{component}}",
                        )
                    ],
                    runbooks=["RecsiteBeatSilent", "RecsiteWorkerSilent"],
                ),
                Panel(
                    "Last success",
                    "Time since a task last ended well; those of beat are due every few seconds to minutes.",
                    "s",
                    [
                        Query(
                            f"time() - {same('recsite_task_last_success_timestamp_seconds', CONTROL, 'task')}",
                            "{{task}}",
                        )
                    ],
                    runbooks=["RecsiteTaskFailing"],
                ),
                Panel(
                    "Failures within the hour before",
                    "Runs that ended in an error, took too long or lost their process.",
                    "short",
                    [Query(same_hour("recsite_task_failures_total", CONTROL, "task"), "{{task}}")],
                    runbooks=["RecsiteTaskFailing"],
                    is_stacked=True,
                ),
                Panel(
                    "Time of a task",
                    "Time that 95 of 100 runs within the hour before took at most.",
                    "s",
                    [
                        Query(
                            f"histogram_quantile(0.95, {same_hour(TASK_SECONDS, CONTROL, 'le', 'task')})",
                            "{{task}}",
                        )
                    ],
                ),
            ],
        ),
    ],
    {"tenant": f"label_values(recsite_tenant_loads_total{{{CONTROL}}}, tenant)"},
)
