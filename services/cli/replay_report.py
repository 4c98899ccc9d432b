"""What a replay came to, as tables for people and as one JSON line for programs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from services.cli.replay_run import Outcome
from services.sim.accuracy import BucketScore
from services.sim.replay import ReplayResult
from services.sim.schedule import Schedule
from services.sim.traces import Trace

_OUT_OF_ORDER = "out_of_order"
# A pipe has no width; rich would take 80.
_PIPE_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Report:
    """Expected and counted, how fast, how right."""

    traces: int
    deliveries: int
    expected: dict[str, int]
    counted: dict[str, int]
    other_flags: dict[str, int]
    result: ReplayResult
    accuracy: list[BucketScore]
    by_predicted: list[BucketScore]
    overall: BucketScore | None
    cpu_s: dict[str, float]

    @classmethod
    def of(cls, plan: Schedule, traces: Sequence[Trace], outcome: Outcome) -> "Report":
        """Puts together what was sent and what came of it."""
        result = outcome.result
        return cls(
            traces=len(traces),
            deliveries=sum(trace.scored for trace in traces),
            expected={
                "fixes": len(plan) - plan.duplicates,
                "duplicates": plan.duplicates,
                "conflicts": 0,
                _OUT_OF_ORDER: plan.disordered,
            },
            counted={
                "fixes": result.fixes,
                "duplicates": result.duplicates,
                "conflicts": result.conflicts,
                _OUT_OF_ORDER: result.flags.get(_OUT_OF_ORDER, 0),
            },
            other_flags={name: count for name, count in result.flags.items() if name != _OUT_OF_ORDER},
            result=result,
            accuracy=outcome.accuracy.by_remaining_time(),
            by_predicted=outcome.accuracy.by_predicted_time(),
            overall=outcome.accuracy.overall(),
            cpu_s=outcome.cpu_s,
        )

    @property
    def events_per_s(self) -> float:
        """Fixes a second, from the first sent to the last processed."""
        return self.result.sent / self.result.total_s if self.result.total_s else 0.0

    @property
    def differences(self) -> list[str]:
        """Where expected and counted differ. Fixes sent again after a break may have arrived the first
        time.
        """
        return [
            f"{name} {self.expected[name]} expected, {self.counted[name]} counted"
            for name in self.expected
            if not self._agrees(name)
        ]

    @property
    def exact(self) -> bool:
        """Whether everything sent was counted for what it is."""
        return not self.differences

    def _agrees(self, name: str) -> bool:
        extra = self.counted[name] - self.expected[name]
        return 0 <= extra <= (self.result.resent if name == "duplicates" else 0)

    def to_json(self) -> str:
        """One line."""
        result = self.result
        return json.dumps(
            {
                "events_per_s": round(self.events_per_s, 1),
                "sent": result.sent,
                "exact": self.exact,
                "traces": self.traces,
                "deliveries": self.deliveries,
                "expected": self.expected,
                "counted": self.counted,
                "other_flags": self.other_flags,
                "resent": result.resent,
                "predictions": result.predictions,
                "predictions_watched": result.watched,
                "prepare_s": round(result.prepare_s, 3),
                "intake_s": round(result.intake_s, 3),
                "total_s": round(result.total_s, 3),
                "ack_p50_ms": _rounded(result.ack_p50_ms),
                "ack_p99_ms": _rounded(result.ack_p99_ms),
                "cpu_s": {name: round(seconds, 2) for name, seconds in self.cpu_s.items()},
                "eta": None if self.overall is None else _score(self.overall),
                "eta_by_remaining_time": [_score(score) for score in self.accuracy],
                "eta_by_predicted_time": [_score(score) for score in self.by_predicted],
            }
        )


def tables(report: Report) -> None:
    """Prints the report."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    result = report.result
    console.print(
        f"\n{report.traces:,} traces, {report.deliveries:,} deliveries; {result.sent:,} fixes in "
        f"{result.total_s:.2f} s: [bold]{report.events_per_s:,.0f} fixes/s[/] end to end"
        f" (durable after {result.intake_s:.2f} s; batch acknowledged p50 {_ms(result.ack_p50_ms)}, "
        f"p99 {_ms(result.ack_p99_ms)}); {result.predictions:,} predictions"
    )
    if report.cpu_s and result.total_s:
        used = ", ".join(
            f"{name} {seconds:.1f} s"
            for name, seconds in sorted(report.cpu_s.items(), key=lambda one: -one[1])
        )
        console.print(f"CPU: {used}")
    counts = Table("", "expected", "counted", title="counted by the mesh", title_justify="left")
    for column in counts.columns[1:]:
        column.justify = "right"
    for name, expected in report.expected.items():
        counts.add_row(name.replace("_", " "), f"{expected:,}", f"{report.counted[name]:,}")
    for name, count in report.other_flags.items():
        counts.add_row(name.replace("_", " "), "", f"{count:,}")
    console.print(counts)
    if result.resent:
        console.print(f"{result.resent:,} fixes were sent again after a break")
    if report.overall is not None:
        title = "arrival time against what happened"
        console.print(_scores("time left", title, (*report.accuracy, report.overall)))
        console.print(_scores("time predicted", "the same by what was predicted", report.by_predicted))


def _scores(first: str, title: str, scores: Iterable[BucketScore]) -> Table:
    table = Table(
        first, "predictions", "mean error", "bias", "P10-P90 held", "P10-P90 width",
        title=title, title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for score in scores:
        table.add_row(
            score.label,
            f"{score.count:,}",
            f"{score.mae_minutes:.1f} min",
            f"{score.bias_minutes:+.1f} min",
            f"{score.coverage:.0%}",
            f"{score.width_minutes:.1f} min",
        )
    return table


def _score(score: BucketScore) -> dict[str, object]:
    return {
        name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(score).items()
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
