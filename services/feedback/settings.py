"""Settings of feedback, beyond those all services share."""

import math
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, model_validator
from pydantic_settings import NoDecode

from services.feedback.alert_rules import Rules, built_in, read_rules
from services.feedback.metrics_spec import SECOND, WindowSpec, parse_windows
from services.mesh.settings import Disagreement, GrpcSettings, Port

_DAY_S: Final = 86_400


def _windows(value: str) -> str:
    try:
        parse_windows(value)
    except ValueError as error:
        raise Disagreement("WAYMESH_METRIC_WINDOWS", value, str(error)) from None
    return value


def _rules(value: object, info: ValidationInfo) -> Rules:
    rules = value if isinstance(value, Rules) else read_rules(Path(str(value)))
    kept = info.data.get("metric_windows")
    if kept is not None:
        rules.check_windows({spec.name for spec in parse_windows(kept)})
    return rules


# The variable names the file. It is read at once: a wrong rule stops the start as any wrong setting does.
RulesFile = Annotated[Rules, NoDecode, PlainValidator(_rules)]


class FeedbackSettings(GrpcSettings):
    """What feedback reads from the environment, once."""

    service: ClassVar[str] = "feedback"
    admin_place: ClassVar[int] = 2

    port: Port = Field(50053, validation_alias="WAYMESH_FEEDBACK_PORT")
    admin: Port | None = Field(None, validation_alias="WAYMESH_FEEDBACK_ADMIN_PORT")

    outcome_retention_days: int = Field(30, validation_alias="WAYMESH_OUTCOME_RETENTION_DAYS", ge=2, le=3650)
    metric_windows: Annotated[str, AfterValidator(_windows)] = Field(
        "60s,300s/60s", validation_alias="WAYMESH_METRIC_WINDOWS", min_length=1
    )
    metric_lateness_s: float = Field(600.0, validation_alias="WAYMESH_METRIC_LATENESS_S", ge=0, le=86_400)
    # After the windows, which it must name.
    alert_rules: RulesFile = Field(
        default_factory=built_in, validate_default=True, validation_alias="WAYMESH_ALERT_RULES"
    )

    @model_validator(mode="after")
    def _windows_within_what_is_kept(self) -> Self:
        """Windows that may still change are made again of stored outcomes, which must be there for it."""
        longest_s = max(spec.size for spec in self.windows) / SECOND
        needed = math.ceil((longest_s + self.metric_lateness_s) / _DAY_S) + 1
        if self.outcome_retention_days < needed:
            allowed = f"at least {needed} with the windows and the lateness of WAYMESH_METRIC_*"
            raise Disagreement("WAYMESH_OUTCOME_RETENTION_DAYS", self.outcome_retention_days, allowed)
        return self

    @property
    def windows(self) -> tuple[WindowSpec, ...]:
        """The windows that metrics are made of."""
        return parse_windows(self.metric_windows)
