"""One service, or some, from the calls down to the process."""

from typing import Final

from tools.observability.dashboards.board import Board, Panel, Query, Variable

_OF: Final = 'job="waymesh", service=~"$service"'
_RATE: Final = "[$__rate_interval]"

BOARD: Final = Board(
    "waymesh-service",
    "Waymesh: service",
    "One service from its calls down to its processes.",
    (
        (
            "What it is asked",
            (
                Panel(
                    "Calls by method",
                    [
                        Query(
                            f"sum by (service, grpc_method) "
                            f"(rate(grpc_server_handling_seconds_count{{{_OF}}}{_RATE}))",
                            "{{service}} {{grpc_method}}",
                        )
                    ],
                    unit="reqps",
                ),
                Panel(
                    "Calls that did not end well",
                    [
                        Query(
                            "sum by (service, grpc_method, grpc_code) "
                            "(rate(grpc_server_handling_seconds_count"
                            f'{{{_OF}, grpc_code!="OK"}}{_RATE}))',
                            "{{service}} {{grpc_method}} {{grpc_code}}",
                        )
                    ],
                    unit="reqps",
                    alert="WaymeshHighErrorRate",
                ),
                Panel(
                    "P95 by method",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (service, grpc_method, le) "
                            f"(rate(grpc_server_handling_seconds_bucket{{{_OF}}}{_RATE})))",
                            "{{service}} {{grpc_method}}",
                        )
                    ],
                    unit="s",
                    bad=2,
                    alert="WaymeshHighLatency",
                ),
                Panel(
                    "Calls under way",
                    [Query(f"sum by (service) (waymesh_server_in_flight{{{_OF}}})", "{{service}}")],
                ),
                Panel(
                    "Requests by path",
                    [
                        Query(
                            'sum by (path, code) (rate(http_requests_total{job="waymesh", '
                            'path!~"/health.*|/metrics"}'
                            f"{_RATE}))",
                            "{{path}} {{code}}",
                        )
                    ],
                    unit="reqps",
                    about="Of the gateway.",
                ),
                Panel(
                    "P95 by path",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (path, le) "
                            "(rate(http_request_duration_seconds_bucket"
                            f'{{job="waymesh", path!~"/health.*|/metrics"}}{_RATE})))',
                            "{{path}}",
                        )
                    ],
                    unit="s",
                    about="Of the gateway; streams of events last as long as somebody listens.",
                ),
            ),
        ),
        (
            "What it asks of others",
            (
                Panel(
                    "P95 by method, retries included",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (service, grpc_method, le) "
                            f"(rate(grpc_client_handling_seconds_bucket{{{_OF}}}{_RATE})))",
                            "{{service}} {{grpc_method}}",
                        )
                    ],
                    unit="s",
                ),
                Panel(
                    "Calls that did not end well",
                    [
                        Query(
                            "sum by (service, grpc_method, grpc_code) "
                            "(rate(grpc_client_handling_seconds_count"
                            f'{{{_OF}, grpc_code!="OK"}}{_RATE}))',
                            "{{service}} {{grpc_method}} {{grpc_code}}",
                        )
                    ],
                    unit="reqps",
                    alert="WaymeshBreakerOpen",
                ),
                Panel(
                    "Breakers that opened",
                    [
                        Query(
                            f"sum by (service, target) "
                            f"(increase(waymesh_breaker_opened_total{{{_OF}}}{_RATE}))",
                            "{{service}} to {{target}}",
                        )
                    ],
                    alert="WaymeshBreakerOpen",
                ),
            ),
        ),
        (
            "Its processes",
            (
                Panel(
                    "CPU",
                    [Query(f"rate(process_cpu_seconds_total{{{_OF}}}{_RATE})", "{{service}} {{instance}}")],
                    unit="percentunit",
                ),
                Panel(
                    "Memory",
                    [Query(f"process_resident_memory_bytes{{{_OF}}}", "{{service}} {{instance}}")],
                    unit="bytes",
                    bad=512 * 2**20,
                    about="Pods are limited to 512 MiB by default.",
                ),
                Panel("Open files", [Query(f"process_open_fds{{{_OF}}}", "{{service}} {{instance}}")]),
                Panel(
                    "Event loop, P99 of lag",
                    [
                        Query(
                            "histogram_quantile(0.99, sum by (service, instance, le) "
                            f"(rate(waymesh_event_loop_lag_seconds_bucket{{{_OF}}}{_RATE})))",
                            "{{service}} {{instance}}",
                        )
                    ],
                    unit="s",
                    bad=0.5,
                    alert="WaymeshEventLoopBlocked",
                ),
                Panel(
                    "Connections to PostgreSQL",
                    [Query(f"waymesh_store_connections{{{_OF}}}", "{{service}} {{instance}} {{state}}")],
                    alert="WaymeshStorePoolExhausted",
                ),
                Panel(
                    "Certificates end in",
                    [
                        Query(
                            f"waymesh_tls_certificate_expiry_timestamp_seconds{{{_OF}}} - time()",
                            "{{service}} {{instance}}",
                        )
                    ],
                    unit="s",
                    bad=3 * 86_400,
                    good_above=True,
                    lowest=None,
                    alert="WaymeshCertificateExpiring",
                    about="Nothing where services speak plain text, as on one machine.",
                ),
                Panel(
                    "Builds",
                    [Query(f"count by (service, version) (waymesh_build_info{{{_OF}}})")],
                    kind="table",
                    width=24,
                    height=6,
                ),
            ),
        ),
    ),
    (Variable("service", "Service", 'label_values(up{job="waymesh"}, service)'),),
)
