"""What the gateway counts, besides what every process of the mesh does."""

from prometheus_client import Counter, Gauge, Histogram

from services.mesh.telemetry import LATENCY_BUCKETS, Telemetry

# agent_calls_total{status}: how a task ended, by the HTTP status.
_ENDS = {200: "success", 499: "cancelled", 504: "timeout"}


class GatewayMetrics:
    """Children are looked up once: `labels()` costs more than the counting."""

    def __init__(self, telemetry: Telemetry) -> None:
        registry = telemetry.registry
        self._requests = Counter(
            "http_requests", "HTTP requests answered", ["listener", "path", "code"], registry=registry
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Time from the head of a request to the end of its answer",
            ["listener", "path"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._events = Counter(
            "http_events", "Server-Sent Events sent", ["listener", "path"], registry=registry
        )
        self._streams = Counter(
            "http_event_streams",
            "Streams of events, by how they ended",
            ["listener", "path", "end"],
            registry=registry,
        )
        self.handshakes_failed = Counter(
            "http_tls_handshakes_failed",
            "Connections that ended before they were encrypted",
            registry=registry,
        )
        self.connections = Gauge("http_connections", "Connections of clients", registry=registry)
        self.in_flight = Gauge("http_requests_in_flight", "HTTP requests under way", registry=registry)
        self._agent_calls = telemetry.agent_calls
        self._agent_duration = telemetry.agent_duration
        self.sessions = telemetry.active_sessions
        self._by_answer: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._by_task: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, listener: str, path: str, status: int, seconds: float) -> None:
        """One request, whatever it was."""
        key = (listener, path, status)
        found = self._by_answer.get(key)
        if found is None:
            found = (
                self._requests.labels(listener, path, str(status)),
                self._duration.labels(listener, path),
            )
            self._by_answer[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def streamed(self, listener: str, path: str, events: int, end: str) -> None:
        """One stream of events: `complete`, `failed` or `cancelled`."""
        self._events.labels(listener, path).inc(events)
        self._streams.labels(listener, path, end).inc()

    def ended_here(self, listener: str, status: int, seconds: float) -> None:
        """One task that no service has had: those count theirs themselves, and each is counted once."""
        key = (listener, status)
        found = self._by_task.get(key)
        if found is None:
            end = _ENDS.get(status, "failure")
            found = (self._agent_calls.labels(listener, end), self._agent_duration.labels(listener))
            self._by_task[key] = found
        found[0].inc()
        found[1].observe(seconds)
