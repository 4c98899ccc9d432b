"""Is anything wrong, and where: the page to open first."""

from typing import Final

from tools.observability.dashboards.board import Board, Panel, Query

_BREAKER: Final = {0: ("closed", "green"), 1: ("half-open", "orange"), 2: ("open", "red")}
_HEALTH: Final = {0: ("failing", "red"), 1: ("ok", "green")}

BOARD: Final = Board(
    "waymesh-overview",
    "Waymesh: overview",
    "Is anything wrong, and where.",
    (
        (
            "Now",
            (
                Panel(
                    "Alerts that fire",
                    [Query('count(ALERTS{alertname=~"Waymesh.*", alertstate="firing"}) or vector(0)')],
                    kind="stat",
                    width=4,
                    height=4,
                    bad=1,
                ),
                Panel(
                    "Services up",
                    [Query('count(max by (service) (up{job="waymesh"}) == 1)')],
                    kind="stat",
                    width=4,
                    height=4,
                    bad=5,
                    good_above=True,
                    alert="WaymeshServiceDown",
                ),
                Panel(
                    "Requests at the gateway",
                    [Query('waymesh:requests:rate5m{service="gateway"}')],
                    unit="reqps",
                    kind="stat",
                    width=4,
                    height=4,
                ),
                Panel(
                    "Failed at the gateway",
                    [Query('waymesh:error_ratio:rate5m{service="gateway"}')],
                    unit="percentunit",
                    kind="stat",
                    width=4,
                    height=4,
                    bad=0.05,
                    alert="WaymeshHighErrorRate",
                ),
                Panel(
                    "Handovers within P10 to P90, 6 h",
                    [Query("waymesh:eta_coverage:ratio6h")],
                    unit="percentunit",
                    kind="stat",
                    width=4,
                    height=4,
                    bad=0.65,
                    good_above=True,
                    alert="WaymeshEtaCoverageDrift",
                ),
                Panel(
                    "Arrival times off by, 6 h",
                    [Query("waymesh:eta_error_minutes:mean6h")],
                    unit="m",
                    kind="stat",
                    width=4,
                    height=4,
                    bad=15,
                    alert="WaymeshEtaErrorHigh",
                ),
            ),
        ),
        (
            "Calls",
            (
                Panel(
                    "Requests",
                    [Query("waymesh:requests:rate5m", "{{service}}")],
                    unit="reqps",
                    about="What each service was asked, health checks apart.",
                ),
                Panel(
                    "Errors",
                    [Query("waymesh:error_ratio:rate5m", "{{service}}")],
                    unit="percentunit",
                    bad=0.05,
                    alert="WaymeshHighErrorRate",
                    about="Ended in an error of ours, not the caller's.",
                ),
                Panel(
                    "P95",
                    [Query("waymesh:latency_seconds:p95_5m", "{{service}}")],
                    unit="s",
                    bad=2,
                    alert="WaymeshHighLatency",
                    about="Streams and tasks in words apart.",
                ),
                Panel(
                    "Answers of the gateway",
                    [
                        Query(
                            'sum by (code) (rate(http_requests_total{job="waymesh", '
                            'path!~"/health.*|/metrics"}'
                            "[$__rate_interval]))",
                            "{{code}}",
                        )
                    ],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Tasks by how they ended",
                    [
                        Query(
                            "sum by (agent_type, status) "
                            '(rate(agent_calls_total{job="waymesh"}[$__rate_interval]))',
                            "{{agent_type}} {{status}}",
                        )
                    ],
                    unit="ops",
                ),
                Panel(
                    "Tasks under way",
                    [Query('sum by (agent_type) (active_sessions_current{job="waymesh"})', "{{agent_type}}")],
                ),
            ),
        ),
        (
            "What holds whom up",
            (
                Panel(
                    "Health checks",
                    [
                        Query(
                            'min by (service, check) (waymesh_health{job="waymesh"})',
                            "{{service}}: {{check}}",
                        )
                    ],
                    kind="state-timeline",
                    words=_HEALTH,
                    bad=1,
                    good_above=True,
                    alert="WaymeshHealthCheckFailing",
                ),
                Panel(
                    "Breakers",
                    [
                        Query(
                            'max by (service, target) (waymesh_breaker_state{job="waymesh"})',
                            "{{service}} to {{target}}",
                        )
                    ],
                    kind="state-timeline",
                    words=_BREAKER,
                    bad=2,
                    alert="WaymeshBreakerOpen",
                ),
                Panel(
                    "Longest wait in outboxes",
                    [Query("waymesh:outbox_oldest_age_seconds:max", "{{service}}: {{outbox}}")],
                    unit="s",
                    bad=30,
                    alert="WaymeshOutboxStale",
                ),
                Panel(
                    "Events still to be read",
                    [Query("waymesh:consumer_lag:events", "{{service}}: {{topic}}")],
                    bad=1000,
                    alert="WaymeshConsumerLag",
                ),
                Panel(
                    "Event loops, P99 of lag",
                    [
                        Query(
                            "histogram_quantile(0.99, sum by (service, le) "
                            '(rate(waymesh_event_loop_lag_seconds_bucket{job="waymesh"}[$__rate_interval])))',
                            "{{service}}",
                        )
                    ],
                    unit="s",
                    bad=0.5,
                    alert="WaymeshEventLoopBlocked",
                ),
                Panel(
                    "Connections to PostgreSQL in use",
                    [
                        Query(
                            'max by (service) (waymesh_store_connections{job="waymesh", state="in_use"} '
                            '/ ignoring (state) waymesh_store_connections_max{job="waymesh"})',
                            "{{service}}",
                        )
                    ],
                    unit="percentunit",
                    bad=0.99,
                    highest=1,
                    alert="WaymeshStorePoolExhausted",
                ),
            ),
        ),
        (
            "Tasks in words",
            (
                Panel(
                    "P95 of tasks in words",
                    [Query("waymesh:words_latency_seconds:p95_5m", "tasks")],
                    unit="s",
                    bad=20,
                    alert="WaymeshWordsSlow",
                ),
                Panel(
                    "P95 of calls to models",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (gen_ai_request_model, le) (rate("
                            'gen_ai_client_operation_duration_seconds_bucket{job="waymesh"}[$__rate_interval])))',
                            "{{gen_ai_request_model}}",
                        )
                    ],
                    unit="s",
                ),
                Panel(
                    "Calls to models by error",
                    [
                        Query(
                            "sum by (gen_ai_request_model, error_type) (rate("
                            'gen_ai_client_operation_duration_seconds_count{job="waymesh"}[$__rate_interval]))',
                            "{{gen_ai_request_model}} {{error_type}}",
                        )
                    ],
                    unit="ops",
                ),
            ),
        ),
    ),
)
