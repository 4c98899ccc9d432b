"""Numbers on the command line."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A range of finite numbers: Python reads `nan`, which is outside of no range, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
