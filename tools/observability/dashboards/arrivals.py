"""Arrival times against what happened."""

from typing import Final

from tools.observability.dashboards.board import Board, Panel, Query

_ERRORS: Final = 'waymesh_eta_error_minutes_{part}{{job="waymesh"}}[$__rate_interval]'


def _errors(part: str) -> str:
    return _ERRORS.format(part=part)


BOARD: Final = Board(
    "waymesh-arrivals",
    "Waymesh: arrival times",
    "How far predictions were off, and whether intervals hold what they promise.",
    (
        (
            "Six hours",
            (
                Panel(
                    "Within P10 to P90",
                    [Query("waymesh:eta_coverage:ratio6h")],
                    unit="percentunit",
                    kind="stat",
                    width=6,
                    height=5,
                    bad=0.65,
                    good_above=True,
                    alert="WaymeshEtaCoverageDrift",
                    about="80% are promised.",
                ),
                Panel(
                    "Off by, on average",
                    [Query("waymesh:eta_error_minutes:mean6h")],
                    unit="m",
                    kind="stat",
                    width=6,
                    height=5,
                    bad=15,
                    alert="WaymeshEtaErrorHigh",
                ),
                Panel(
                    "Later than told, on average",
                    [Query("waymesh:eta_bias_minutes:mean6h")],
                    unit="m",
                    kind="stat",
                    width=6,
                    height=5,
                    lowest=None,
                    about="Below 0: earlier than told.",
                ),
                Panel(
                    "Scored predictions",
                    [Query("waymesh:eta_outcomes:increase6h")],
                    kind="stat",
                    width=6,
                    height=5,
                ),
            ),
        ),
        (
            "Over time",
            (
                Panel(
                    "Where handovers fell",
                    [
                        Query(
                            "sum by (stage, interval) (rate(waymesh_eta_outcomes_total"
                            '{job="waymesh"}[$__rate_interval])) * 60',
                            "{{stage}}: {{interval}}",
                        )
                    ],
                    stacked=True,
                    width=12,
                    about="Each minute: before P10, within, after P90.",
                    alert="WaymeshEtaCoverageDrift",
                ),
                Panel(
                    "Within P10 to P90",
                    [
                        Query(
                            'sum by (stage) (rate(waymesh_eta_outcomes_total{job="waymesh", '
                            'interval="within"}'
                            "[$__rate_interval])) / sum by (stage) (rate(waymesh_eta_outcomes_total"
                            '{job="waymesh"}[$__rate_interval]))',
                            "{{stage}}",
                        )
                    ],
                    unit="percentunit",
                    width=12,
                    highest=1,
                    alert="WaymeshEtaCoverageDrift",
                ),
                Panel(
                    "Off by, on average",
                    [
                        Query(
                            f"sum by (stage, direction) (rate({_errors('sum')})) "
                            f"/ sum by (stage, direction) (rate({_errors('count')}))",
                            "{{stage}}, {{direction}}",
                        )
                    ],
                    unit="m",
                    bad=15,
                    alert="WaymeshEtaErrorHigh",
                ),
                Panel(
                    "Off by: median, P90",
                    [
                        Query(
                            f"histogram_quantile(0.5, sum by (stage, le) (rate({_errors('bucket')})))",
                            "{{stage}} median",
                        ),
                        Query(
                            f"histogram_quantile(0.9, sum by (stage, le) (rate({_errors('bucket')})))",
                            "{{stage}} P90",
                        ),
                    ],
                    unit="m",
                ),
                Panel(
                    "Deliveries that wait to be learned from",
                    [Query('max(waymesh_outbox_events{job="waymesh", outbox="deliveries"})', "deliveries")],
                    alert="WaymeshOutboxStale",
                ),
                Panel(
                    "Fixes to predictions",
                    [
                        Query(
                            'sum(rate(kafka_messages_total{job="waymesh", service="eta", topic="gps-events", '
                            'status="consumed"}[$__rate_interval]))',
                            "fixes handled",
                        ),
                        Query(
                            'sum(rate(kafka_messages_total{job="waymesh", service="eta", '
                            'topic="eta-predictions", '
                            'status="published"}[$__rate_interval]))',
                            "predictions",
                        ),
                    ],
                    unit="ops",
                    width=12,
                ),
                Panel(
                    "P95 of eta's calls",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (grpc_method, le) (rate("
                            'grpc_server_handling_seconds_bucket{job="waymesh", service="eta", '
                            'grpc_method!~"StreamGps|WatchEta"}[$__rate_interval])))',
                            "{{grpc_method}}",
                        )
                    ],
                    unit="s",
                    width=12,
                    bad=2,
                    alert="WaymeshHighLatency",
                ),
            ),
        ),
    ),
    span="now-24h",
)
