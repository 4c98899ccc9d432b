"""Grafana's dashboards, from code: `all_of` gives file names and JSON."""

import json

from tools.observability.dashboards import arrivals, edge, events, overview, service
from tools.observability.dashboards.board import Board

BOARDS: tuple[Board, ...] = (overview.BOARD, service.BOARD, events.BOARD, arrivals.BOARD, edge.BOARD)


def all_of() -> dict[str, str]:
    """File name to text."""
    return {f"{board.uid}.json": json.dumps(board.json(), indent=1) + "\n" for board in BOARDS}
