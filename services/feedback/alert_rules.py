"""What is worth an alert: the rules that are built in, and the file that may change them."""

import json
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    # Settings are read with this; the contract's classes would take as long again.
    pass

SeverityName = Literal["info", "warning", "error", "critical"]
SignalName = Literal[
    "breaker_open", "health_failing", "courier_silent", "gps_anomaly", "coverage_drift", "lateness_risk"
]
# What rules on signals are called; no other rule is called so.
SIGNALS: Final = frozenset(get_args(SignalName))
Metric = Literal[
    "failure_rate", "error_rate", "average_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms"
]

_DAY_S: Final = 86_400.0
_MAX_FILE: Final = 1 << 20


def _no_flag(value: object) -> object:
    # Python takes true for 1; a threshold of true is a slip.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Seconds = Annotated[float, BeforeValidator(_no_flag), Field(ge=0, le=30 * _DAY_S, allow_inf_nan=False)]
# No latency is longer than the contract's bound.
Amount = Annotated[float, BeforeValidator(_no_flag), Field(ge=0, le=1e12, allow_inf_nan=False)]
# What begins above a threshold and ends at the very same would begin and end with every other outcome.
_RESOLVED_AT: Final = 0.9
_DIGITS: Final = 17


class _Rule(BaseModel):
    """What both kinds of rules have. Durations are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    severity: SeverityName
    enabled: bool = Field(default=True, strict=True)
    for_s: Seconds = 0.0
    """It must have gone on for this long before it is raised."""
    resolve_for_s: Seconds = 0.0
    """It must have been over for this long before it is resolved."""


class MetricRule(_Rule):
    """A figure of an agent's current window is above `threshold`; `min_outcomes` or more outcomes say so."""

    metric: Metric
    threshold: Amount
    """A rate from 0 to 1, or milliseconds."""
    resolve_threshold: Amount | None = None
    """It is over at or below this; without, at or below nine tenths of `threshold`."""
    window: str = Field(default="300s/60s", pattern=r"^[1-9][0-9]*s(/[1-9][0-9]*s)?$")
    min_outcomes: Annotated[int, BeforeValidator(_no_flag)] = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _thresholds(self) -> "MetricRule":
        if self.resolve_threshold is not None and self.resolve_threshold > self.threshold:
            raise ValueError("a resolve_threshold that is not above its threshold")
        if self.rate and self.threshold >= 1:
            raise ValueError("a threshold below 1, which a rate never exceeds")
        return self

    @property
    def rate(self) -> bool:
        """Whether the figure is a share rather than milliseconds."""
        return self.metric.endswith("_rate")

    def calm(self, value: float) -> bool:
        """Whether an alert with this figure is over."""
        over_at = self.resolve_threshold
        return value <= (_RESOLVED_AT * self.threshold if over_at is None else over_at)

    def shown(self, value: float, other: float | None = None) -> str:
        """A figure in words, with as many digits as it takes not to look like `other`, if it is another."""
        for more in range(_DIGITS):
            told = self._with_digits(value, more)
            if other is None or value == other or told != self._with_digits(other, more):
                break
        return told

    def _with_digits(self, value: float, more: int) -> str:
        return f"{value * 100:.{3 + more}g}%" if self.rate else f"{value:,.{more}f} ms"


class SignalRule(_Rule):
    """A service says that something began; it ends when the service says so, or after `quiet_s` of silence.

    `severity` is the least: a signal that says worse is believed.
    """

    signal: SignalName
    quiet_s: Seconds
    """What nobody repeats for this long is over, for its teller may have died; 0: never over by itself."""


_HOUR_S: Final = 3600.0

# Thresholds and the five minutes of a silent courier (which eta measures): requirements of the alerts.
# Of quiet: breakers, checks and orders at risk are told again every 5 minutes while it lasts; eta repeats an
# anomaly every 30 s and says after 10 minutes that it is over; the others are told once and may last.
BUILT_IN: Final[tuple[MetricRule | SignalRule, ...]] = (
    MetricRule(name="failure_rate", severity="error", metric="failure_rate", threshold=0.10),
    MetricRule(name="error_rate", severity="error", metric="error_rate", threshold=0.05),
    MetricRule(name="p95_latency", severity="warning", metric="p95_latency_ms", threshold=2_000.0),
    SignalRule(name="breaker_open", severity="error", signal="breaker_open", quiet_s=900.0),
    SignalRule(name="health_failing", severity="error", signal="health_failing", quiet_s=900.0),
    SignalRule(name="courier_silent", severity="error", signal="courier_silent", quiet_s=4 * _HOUR_S),
    SignalRule(name="gps_anomaly", severity="info", signal="gps_anomaly", quiet_s=900.0),
    SignalRule(name="coverage_drift", severity="warning", signal="coverage_drift", quiet_s=7 * _DAY_S),
    SignalRule(name="lateness_risk", severity="warning", signal="lateness_risk", quiet_s=1_800.0),
)


@dataclass(frozen=True)
class Rules:
    """The rules that are on, by name and by the kind of signal they are about; `origin` says where from."""

    all: Mapping[str, MetricRule | SignalRule]
    origin: str = "built in"

    @classmethod
    def of(cls, rules: Mapping[str, MetricRule | SignalRule], origin: str) -> "Rules":
        on = {name: rule for name, rule in rules.items() if rule.enabled}
        return cls(MappingProxyType(on), origin)

    @property
    def metrics(self) -> Iterator[MetricRule]:
        """Rules on figures of agents."""
        return (rule for rule in self.all.values() if isinstance(rule, MetricRule))

    def of_signal(self, name: str) -> SignalRule | None:
        """The rule for a kind of signal, such as `breaker_open`; None if there is none, or it is off."""
        rule = self.all.get(name)
        return rule if isinstance(rule, SignalRule) else None

    def check_windows(self, kept: Set[str]) -> None:
        """Raises ValueError, with one line, if a rule is about a window that is not among those kept."""
        for rule in self.metrics:
            if rule.window not in kept:
                raise ValueError(
                    f"a file whose {rule.name}.window is {' or '.join(sorted(kept))}, as "
                    f"WAYMESH_METRIC_WINDOWS says; it is {rule.window}: change either of them, "
                    f"or set {rule.name}.enabled to false"
                )

    def __str__(self) -> str:
        return self.origin


def built_in() -> Rules:
    """The rules as they are without a file."""
    return Rules.of({rule.name: rule for rule in BUILT_IN}, "built in")


def read_rules(path: Path) -> Rules:
    """The built-in rules as a JSON file changes them: `{"failure_rate": {"threshold": 0.2, "for_s": 60}, …}`.

    A name that is not built in makes a new rule on a metric. Raises ValueError with one line: which field is
    wrong and what it may be.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ValueError("a file of at most 1 MiB")
        changes = json.loads(path.read_text("utf-8"), object_pairs_hook=_each_once)
    except OSError as error:
        raise ValueError(f"a file of alert rules that can be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"a file of JSON ({' '.join(str(error).split())})") from None
    if not isinstance(changes, dict) or not all(isinstance(one, dict) for one in changes.values()):
        raise ValueError('a file with one JSON object, such as {"failure_rate": {"threshold": 0.2}}')
    rules: dict[str, MetricRule | SignalRule] = {rule.name: rule for rule in BUILT_IN}
    for name, fields in changes.items():
        rules[name] = _changed(name, rules.get(name), fields)
    return Rules.of(rules, str(path))


def _changed(
    name: str, before: MetricRule | SignalRule | None, fields: Mapping[str, Any]
) -> MetricRule | SignalRule:
    fixed = {"name", "signal"} if isinstance(before, SignalRule) else {"name"}
    for field in sorted(fixed & fields.keys()):
        raise ValueError(f"a file without {name}.{field}, which cannot be changed: remove it")
    try:
        if before is None:
            return MetricRule(name=name, **{"severity": "warning", **fields})
        return type(before)(**{**before.model_dump(), **fields})
    except ValidationError as error:
        raise ValueError(_told(name, before, error)) from None


# Of what pydantic says of a value, as the rest of "is …".
_BEGINNINGS: Final = {"^(Input should be|must be) ": "", "^String should ": "text that should "}


def _told(name: str, before: MetricRule | SignalRule | None, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if field == "name":
        return f"a file with names of a-z, 0-9 and _, at most 64 characters: '{name[:80]}' is not one"
    if first["type"] == "extra_forbidden":
        known = type(before) if before is not None else MetricRule
        names = ", ".join(sorted(known.model_fields.keys() - {"name", "signal"}))
        return f"a file without {name}.{field}, which is unknown: known are {names}"
    if first["type"] == "missing":
        return f"a file with {name}.{field}, which is missing: a new rule needs metric and threshold"
    where = f"{name}.{field}" if field else name
    if not field:
        return f"a file whose {name} has {message}"
    for beginning, words in _BEGINNINGS.items():
        message = re.sub(beginning, words, message)
    return f"a file whose {where} is {message}; it is {json.dumps(first['input'])[:80]}"


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"a file in which '{name}' stands once: remove one of the two")
        made[name] = value
    return made
