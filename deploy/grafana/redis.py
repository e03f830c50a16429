"""The page about the Redis servers."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row
from grafana.queries import CACHED, CONTROL, LANE, MOST, READ, rate, same, same_hour

REDIS = Dashboard(
    "redis",
    "recsite: Redis",
    "Memory of the Redis servers and of studios' tables in it, and how lanes read from it.",
    [
        Row(
            "Memory",
            [
                Panel(
                    "Memory, and its limit",
                    "Memory in use by what a Redis is for, and as a dashed line its limit, where one is set.",
                    "bytes",
                    [
                        Query(same("recsite_redis_memory_bytes", CONTROL, "role"), "{{role}}"),
                        Query(f"{MOST} > 0", "{{role}}, limit", is_dashed=True),
                    ],
                    runbooks=["RecsiteRedisMemory"],
                ),
                Panel(
                    "Share of the limit",
                    "Memory in use as a share of what is allowed, where that is set; from 80 % on an alert pages.",
                    "percentunit",
                    [Query(f"{same('recsite_redis_memory_bytes', CONTROL, 'role')} / ({MOST} > 0)", "{{role}}")],
                    runbooks=["RecsiteRedisMemory"],
                ),
                Panel(
                    "Tables by studio",
                    "Bytes of the tables that are kept, of the twenty studios with most.",
                    "bytes",
                    [Query(f"topk(20, {same('recsite_tables_bytes', CONTROL, 'tenant')})", "{{tenant}}")],
                    is_stacked=True,
                ),
                Panel(
                    "Keys dropped within the hour before",
                    "Keys that a Redis dropped for want of memory; of the tables' it is lost data.",
                    "short",
                    [Query(same_hour("recsite_redis_evicted_keys_total", CONTROL, "role"), "{{role}}")],
                    runbooks=["RecsiteRedisMemory"],
                ),
            ],
        ),
        Row(
            "Reading",
            [
                Panel(
                    "Blocks",
                    "Blocks asked of Redis, the writes that carried them, and blocks found in lanes' own caches.",
                    "ops",
                    [
                        Query(READ, "from Redis"),
                        Query(rate("recsite_redis_batches_total", LANE), "writes to Redis"),
                        Query(CACHED, "from the cache"),
                    ],
                ),
                Panel(
                    "Blocks not read",
                    "Blocks not read because Redis was away or said no (errors), or missed the deadline (late).",
                    "ops",
                    [
                        Query(rate("recsite_redis_errors_total", LANE), "errors"),
                        Query(rate("recsite_redis_timeouts_total", LANE), "late"),
                    ],
                    runbooks=["RecsiteFallbackShare"],
                ),
                Panel(
                    "Blocks lost",
                    "Blocks of tables in use that were missing or damaged.",
                    "ops",
                    [Query(rate("recsite_lost_blocks_total", LANE), "lost")],
                    runbooks=["RecsiteBlocksLost", "RecsiteTablesLost"],
                ),
                Panel(
                    "Connections for blocks",
                    "Workers of lanes whose connection to Redis works, and all that serve as a dashed line.",
                    "none",
                    [
                        Query(f"sum(recsite_redis_connected{{{LANE}}})", "connected"),
                        Query(f"sum(recsite_workers{{{LANE}}})", "workers", is_dashed=True),
                    ],
                ),
                Panel(
                    "Found in caches",
                    "Share of blocks that lanes found in their own caches.",
                    "percentunit",
                    [
                        Query(
                            f"{CACHED} / ({CACHED} + {READ})",
                            "found",
                        )
                    ],
                ),
                Panel(
                    "Memory of caches",
                    "Memory that the block caches of each lane take.",
                    "bytes",
                    [Query(f"recsite_block_cache_bytes{{{LANE}}}", "{{instance}}")],
                ),
            ],
        ),
    ],
)
