"""What comes in at Envoy, and what it does about it."""

from typing import Final

from tools.observability.dashboards.board import Board, Panel, Query

_PUBLIC: Final = 'job="waymesh-edge", envoy_http_conn_manager_prefix="public"'
_LISTENERS: Final = 'job="waymesh-edge", envoy_http_conn_manager_prefix=~"public|internal"'
_EDGE: Final = 'job="waymesh-edge"'


def _rate(metric: str, labels: str) -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


BOARD: Final = Board(
    "waymesh-edge",
    "Waymesh: edge",
    "What comes in at Envoy, whom it leaves out and whom it turns away.",
    (
        (
            "Requests",
            (
                Panel(
                    "Requests from outside, by code",
                    [
                        Query(
                            "sum by (envoy_response_code_class) "
                            f"({_rate('envoy_http_downstream_rq_xx', _PUBLIC)})",
                            "{{envoy_response_code_class}}xx",
                        )
                    ],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Answered with 5xx",
                    [Query("waymesh:edge_error_ratio:rate5m", "5xx")],
                    unit="percentunit",
                    bad=0.05,
                    alert="WaymeshEdgeErrors",
                ),
                Panel(
                    "P95",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (envoy_http_conn_manager_prefix, le) "
                            f"({_rate('envoy_http_downstream_rq_time_bucket', _LISTENERS)})) / 1000",
                            "{{envoy_http_conn_manager_prefix}}",
                        )
                    ],
                    unit="s",
                    about="Streams too: how long somebody listened.",
                ),
            ),
        ),
        (
            "Whom it leaves out, and whom it turns away",
            (
                Panel(
                    "Replicas ejected",
                    [
                        Query(
                            "max by (envoy_cluster_name) "
                            f"(envoy_cluster_outlier_detection_ejections_active{{{_EDGE}}})",
                            "{{envoy_cluster_name}}",
                        )
                    ],
                    bad=1,
                    alert="WaymeshEdgeHostsEjected",
                    about="They say that they are well, and fail what they are given.",
                ),
                Panel(
                    "Replicas that are given requests",
                    [
                        Query(
                            f"min by (envoy_cluster_name) (envoy_cluster_membership_healthy{{{_EDGE}}})",
                            "{{envoy_cluster_name}}",
                        )
                    ],
                ),
                Panel(
                    "Turned away",
                    [
                        Query(
                            "sum by (envoy_local_http_ratelimit_prefix) "
                            f"({_rate('envoy_http_local_rate_limit_rate_limited', _EDGE)})",
                            "rate of {{envoy_local_http_ratelimit_prefix}}",
                        ),
                        Query(
                            "sum by (envoy_cluster_name) "
                            f"({_rate('envoy_cluster_upstream_rq_pending_overflow', _EDGE)})",
                            "no room before {{envoy_cluster_name}}",
                        ),
                        Query(
                            f"sum({_rate('envoy_listener_downstream_cx_overload_reject', _EDGE)})",
                            "connections under overload",
                        ),
                    ],
                    unit="ops",
                    about="A key's own rate is the gateway's: it answers 429 itself.",
                ),
            ),
        ),
        (
            "The process",
            (
                Panel(
                    "Edges up",
                    [Query(f"sum(up{{{_EDGE}}})")],
                    kind="stat",
                    bad=1,
                    good_above=True,
                    alert="WaymeshEdgeDown",
                ),
                Panel(
                    "Connections of callers",
                    [
                        Query(
                            "sum by (envoy_http_conn_manager_prefix) "
                            f"(envoy_http_downstream_cx_active{{{_LISTENERS}}})",
                            "{{envoy_http_conn_manager_prefix}}",
                        )
                    ],
                    about="Each process takes 8,000 at most.",
                ),
                Panel(
                    "Certificates end in days",
                    [
                        Query(
                            "(min by (envoy_tls_certificate) "
                            f"(envoy_listener_ssl_certificate_expiration_unix_time_seconds{{{_EDGE}}})"
                            " - time()) / 86400",
                            "{{envoy_tls_certificate}}",
                        )
                    ],
                    bad=2,
                    good_above=True,
                    alert="WaymeshEdgeCertificateExpiring",
                ),
            ),
        ),
    ),
)
