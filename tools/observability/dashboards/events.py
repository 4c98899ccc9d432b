"""Topics and outboxes: what is published, read, late, unreadable."""

from typing import Final

from tools.observability.dashboards.board import Board, Panel, Query, Variable

_OF: Final = 'job="waymesh", topic=~"$topic"'
_RATE: Final = "[$__rate_interval]"

BOARD: Final = Board(
    "waymesh-events",
    "Waymesh: events",
    "What is published, what waits, and what nobody could read; on Kafka as on the embedded bus.",
    (
        (
            "Topics",
            (
                Panel(
                    "Published",
                    [
                        Query(
                            f"sum by (topic) (rate(kafka_messages_total{{{_OF}, "
                            f'status="published"}}{_RATE}))',
                            "{{topic}}",
                        )
                    ],
                    unit="ops",
                ),
                Panel(
                    "Handled",
                    [
                        Query(
                            f"sum by (service, topic) (rate(kafka_messages_total{{{_OF}, "
                            f'status="consumed"}}{_RATE}))',
                            "{{service}}: {{topic}}",
                        )
                    ],
                    unit="ops",
                ),
                Panel(
                    "Tried in vain",
                    [
                        Query(
                            f"sum by (service, topic) (rate(kafka_messages_total{{{_OF}, "
                            f'status="failed"}}{_RATE}))',
                            "{{service}}: {{topic}}",
                        )
                    ],
                    unit="ops",
                    about="Tried again until it succeeds, or put on dead-letters.",
                ),
                Panel(
                    "Still to be read",
                    [Query('waymesh:consumer_lag:events{topic=~"$topic"}', "{{service}}: {{topic}}")],
                    bad=1000,
                    alert="WaymeshConsumerLag",
                ),
                Panel(
                    "Time to catch up",
                    [Query('waymesh:consumer_lag:seconds{topic=~"$topic"}', "{{service}}: {{topic}}")],
                    unit="s",
                    bad=60,
                    alert="WaymeshConsumerLag",
                    about="At the pace of the last five minutes.",
                ),
                Panel(
                    "Age when handled, P95",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (service, topic, le) "
                            f"(rate(waymesh_event_age_seconds_bucket{{{_OF}}}{_RATE})))",
                            "{{service}}: {{topic}}",
                        )
                    ],
                    unit="s",
                    about="Of the oldest event of each batch, from when the bus took it in.",
                ),
                Panel(
                    "Partitions that are most behind",
                    [Query(f"topk(10, kafka_consumer_lag{{{_OF}}})", "{{service}}: {{topic}}/{{partition}}")],
                    width=12,
                ),
                Panel(
                    "Dead letters",
                    [
                        Query(
                            f"sum by (service, topic) (increase(kafka_messages_total{{{_OF}, "
                            f'status="dead"}}{_RATE}))',
                            "{{service}}: {{topic}}",
                        )
                    ],
                    width=12,
                    alert="WaymeshDeadLetters",
                ),
            ),
        ),
        (
            "Outboxes",
            (
                Panel(
                    "Events that wait",
                    [
                        Query(
                            'max by (service, outbox) (waymesh_outbox_events{job="waymesh"})',
                            "{{service}}: {{outbox}}",
                        )
                    ],
                    alert="WaymeshOutboxStale",
                ),
                Panel(
                    "Bytes on disk",
                    [Query('sum by (service) (waymesh_outbox_bytes{job="waymesh"})', "{{service}}")],
                    unit="bytes",
                    bad=256 * 2**20,
                    alert="WaymeshOutboxStale",
                    about="256 MiB of each process at most.",
                ),
                Panel(
                    "Longest wait",
                    [Query("waymesh:outbox_oldest_age_seconds:max", "{{service}}: {{outbox}}")],
                    unit="s",
                    bad=30,
                    alert="WaymeshOutboxStale",
                ),
                Panel(
                    "Outcomes recorded",
                    [
                        Query(
                            "sum by (service, status) "
                            '(rate(waymesh_outcomes_total{job="waymesh"}[$__rate_interval]))',
                            "{{service}} {{status}}",
                        )
                    ],
                    unit="ops",
                    width=12,
                    alert="WaymeshOutcomesLost",
                ),
                Panel(
                    "Who makes windows and alerts",
                    [Query('sum by (instance) (waymesh_feedback_leads{job="waymesh"})', "{{instance}}")],
                    width=12,
                    about="One replica of feedback at a time.",
                ),
            ),
        ),
    ),
    (Variable("topic", "Topic", 'label_values(kafka_messages_total{job="waymesh"}, topic)'),),
)
