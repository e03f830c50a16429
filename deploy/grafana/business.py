"""The page about studios: who asks how much and gets what."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row
from grafana.queries import (
    AGE,
    CONTROL,
    DOORS,
    EXPOSED,
    NOT_FOUND,
    OVERLAP_ENDS,
    SPLIT,
    STUDIO,
    VERSION,
    WEIGHT,
    rate,
)

BUSINESS = Dashboard(
    "business",
    "recsite: business",
    "What studios ask and get, model by model: who asks how much, the split against the weights, defaults, errors.",
    [
        Row(
            "Requests",
            [
                Panel(
                    "Requests by studio",
                    "The twenty studios that ask most; each key of a batch counts.",
                    "reqps",
                    [
                        Query(
                            f"topk(20, {rate('recsite_tenant_requests_total', f'{DOORS}, {STUDIO}', 'tenant')})",
                            "{{tenant}}",
                        )
                    ],
                    runbooks=["RecsiteTenantQuiet", "RecsiteTenantBelowFloor"],
                ),
                Panel(
                    "Requests by class",
                    "What the chosen studios got; each key of a batch counts.",
                    "reqps",
                    [Query(rate("recsite_tenant_requests_total", f"{DOORS}, {STUDIO}", "class"), "{{class}}")],
                    is_stacked=True,
                ),
                Panel(
                    "Within an hour, and a week before",
                    "Requests of the hour before, and of the same hour a week ago, as the alert compares them.",
                    "short",
                    [
                        Query(f"recsite:tenant_requests:increase1h{{{STUDIO}}}", "{{tenant}}"),
                        Query(
                            f"recsite:tenant_requests:increase1h{{{STUDIO}}} offset 1w",
                            "{{tenant}} a week ago",
                            is_dashed=True,
                        ),
                    ],
                    runbooks=["RecsiteTenantQuiet"],
                ),
                Panel(
                    "Errors and refusals",
                    "Requests of each studio that ended in an error of ours (5xx), were wrong (4xx) or too many (429).",
                    "reqps",
                    [
                        Query(
                            rate(
                                "recsite_tenant_requests_total",
                                f'{DOORS}, {STUDIO}, class=~"4xx|429|5xx"',
                                "tenant",
                                "class",
                            ),
                            "{{tenant}} {{class}}",
                        )
                    ],
                    runbooks=["RecsiteTenantErrors", "RecsiteTenantRefused"],
                ),
                Panel(
                    "Over a limit",
                    "Requests over a limit, by whose: the credential's, the studio's, or that of bad tokens.",
                    "reqps",
                    [
                        Query(
                            rate("recsite_rate_limited_total", f"{DOORS}, {STUDIO}", "tenant", "limit"),
                            "{{tenant}} {{limit}}",
                        )
                    ],
                    runbooks=["RecsiteTenantRefused"],
                ),
                Panel(
                    "Tokens minted",
                    "Tokens that studios' clients were given.",
                    "reqps",
                    [Query(rate("recsite_tokens_minted_total", f"{CONTROL}, {STUDIO}", "tenant"), "{{tenant}}")],
                ),
            ],
        ),
        Row(
            "Answers by model",
            [
                Panel(
                    "Answers by model",
                    "The twenty models that are asked for most.",
                    "reqps",
                    [Query(f"topk(20, {rate(*EXPOSED, 'tenant', 'model')})", "{{tenant}} {{model}}")],
                ),
                Panel(
                    "Answers by where they came from",
                    "From a table, the model's default, a fallback since Redis was away or late, or none.",
                    "reqps",
                    [Query(rate(*EXPOSED, "source"), "{{source}}")],
                    is_stacked=True,
                ),
                Panel(
                    "Share of defaults",
                    "Share of answers to players who are not in the table: the model's default, or none.",
                    "percentunit",
                    [
                        Query(
                            f"({rate(*NOT_FOUND, 'tenant', 'model')} or 0 * {rate(*EXPOSED, 'tenant', 'model')})"
                            f" / {rate(*EXPOSED, 'tenant', 'model')}",
                            "{{tenant}} {{model}}",
                        )
                    ],
                    runbooks=["RecsiteDefaultShare"],
                ),
            ],
            in_a_line=3,
        ),
        Row(
            "Split by version",
            [
                Panel(
                    "Seen against set",
                    "Each version's share of its model's answers, and its weight as a dashed line.",
                    "percentunit",
                    [
                        Query(SPLIT, "{{tenant}} {{model}} {{version}}"),
                        Query(WEIGHT, "{{tenant}} {{model}} {{version}}, set", is_dashed=True),
                    ],
                ),
                Panel(
                    "Seen less set",
                    "How far each version's share is from its weight; where few players ask often that is no fault.",
                    "percentunit",
                    [Query(f"{SPLIT} - {WEIGHT}", "{{tenant}} {{model}} {{version}}")],
                ),
                Panel(
                    "Answers by version",
                    "Answers of each version of the chosen models.",
                    "reqps",
                    [Query(rate(*EXPOSED, *VERSION), "{{tenant}} {{model}} {{version}}")],
                    is_stacked=True,
                ),
                Panel(
                    "Versions",
                    "Versions with weight: what is set, what is seen, and how old their data is.",
                    "none",
                    [Query(WEIGHT), Query(SPLIT), Query(AGE)],
                    "table",
                    columns={"Weight": "percentunit", "Seen": "percentunit", "Age of data": "s"},
                ),
            ],
        ),
        Row(
            "Data and secrets",
            [
                Panel(
                    "Age of data",
                    "Age of the data that versions with weight are served from.",
                    "s",
                    [Query(AGE, "{{tenant}} {{model}} {{version}}")],
                    runbooks=["RecsiteDataLate"],
                ),
                Panel(
                    "Replaced secrets end",
                    "Time until the first of a studio's replaced secrets ends that are still accepted.",
                    "s",
                    [
                        Query(
                            f"{OVERLAP_ENDS} - time()",
                            "{{tenant}}",
                        )
                    ],
                    runbooks=["RecsiteSecretEndsSoon"],
                ),
            ],
        ),
    ],
    {
        "tenant": f'label_values(recsite_tenant_requests_total{{{DOORS}, tenant!=""}}, tenant)',
        "model": f"label_values(recsite_version_weight_ratio{{{CONTROL}, {STUDIO}}}, model)",
    },
)
