"""What outcomes come to, window by window, kept right under late and out-of-order outcomes.

The watermark is the latest of min(own time, arrival) of all outcomes so far. An outcome whose own time lies
more than the lateness before the watermark when it comes is too late: it changes nothing. So a window that
ends as long before is final. One stamped more than a day after it came changes nothing either: it would be
kept until then. A workflow belongs to the window that holds the time of its newest outcome.

Agents and workflows are known by qualified names, and each tenant has windows of all its agents together; so
has the mesh where there are several tenants. The watermark is the mesh's.

Nothing here knows the time or does I/O; all times are Unix microseconds.
"""

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics, WindowKind

from services.feedback.board import Board, Figure
from services.feedback.metrics_columns import Columns
from services.feedback.metrics_spec import SECOND, WindowSpec
from services.feedback.panes import Pane, Span, add_workflows, fill, metrics, same
from services.feedback.shelf import Shelf
from services.feedback.totals import MESH_TOTAL, is_total, total_of
from services.mesh.principal import DEFAULT_TENANT
from services.mesh.tenancy import tenant_of

# What stands for all agents of the default tenant.
TOGETHER: Final = total_of(DEFAULT_TENANT)
# Before any outcome: far enough, and what is taken from it does not overflow.
NEVER: Final = -(2**62)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Windows that no timestamp could tell of are left out.
_FIRST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_TUMBLING: Final = WindowKind.WINDOW_KIND_TUMBLING
_HOPPING: Final = WindowKind.WINDOW_KIND_HOPPING
# Outcomes may be stamped this much after they came, in microseconds.
AHEAD: Final = 86_400 * SECOND
# Hardly any workflow goes on after so long a pause.
REST: Final = 30 * SECOND
# Agents of a tenant that are told apart in one pane: the first that come.
AGENTS: Final = 10_000
# What putting open windows together may take of one flush while outcomes wait and while none do, what
# publishing closed ones may, and what one window takes; in nanoseconds, about.
FLUSH_COST: Final = 5_000_000
QUIET_COST: Final = 50_000_000
CLOSE_COST: Final = 100_000_000
_ROW_COST: Final = 75_000
_OUTCOMES_PER_NS: Final = 2


@dataclass(slots=True, eq=False)
class _Row:
    """One window of one agent."""

    revision: int = 0
    changed_at: int = NEVER
    made_at: int = NEVER
    found: AgentMetrics | None = None


@dataclass(slots=True, eq=False)
class _Window:
    """One window of all agents; `open` are those whose row was not published yet."""

    spec: WindowSpec
    start: int
    rows: dict[str, _Row] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)

    @property
    def end(self) -> int:
        return self.start + self.spec.size


class Windows:
    """All windows that can still change.

    `grace`: how long after its end a window closes by the clock. `pause`: how long a published window stays
    as it is at least, so that many outcomes that come late make one correction. `limits`: latencies, in
    milliseconds, that alerts compare percentiles with. `agents`: how many are told apart. `rest`: a window
    that ended so long before the watermark gets hardly anything more and is kept small: it forgets which
    workflows it has seen, and percentiles over all agents are made from each agent's when asked for.
    """

    def __init__(
        self,
        specs: Sequence[WindowSpec],
        lateness: int,
        grace: int = 2 * SECOND,
        pause: int = SECOND // 4,
        limits: Sequence[float] = (),
        agents: int = AGENTS,
        rest: int = REST,
    ) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.watermark = NEVER
        self.too_late = 0
        # Outcomes of agents that were not told apart any more.
        self.crowded = 0
        self.pane = math.gcd(*(n for spec in specs for n in (spec.size, spec.step)))
        self._lateness = lateness
        self._grace = grace
        self._pause = pause
        self._limits = tuple(limits)
        self._rest = rest
        self._settled_to = NEVER
        self._longest = max(spec.size for spec in specs)
        self._shelf = Shelf(agents, len(self._limits))
        self._panes = self._shelf.panes
        self._workflows: dict[str, Span] = {}
        # Agents whose panes have changed and whose windows do not know it yet.
        self._changed: dict[int, set[str]] = {}
        self._windows: dict[tuple[str, int], _Window] = {}
        self._final: list[AgentMetrics] = []
        # Open windows that have changed, in that order, and some that were put together since.
        self._waiting: deque[tuple[_Window, str]] = deque()
        # By window, what alerts look at, and agents that have changed since.
        self._boards: dict[str, Board] = {}
        self._moved: set[str] = set()

    @property
    def final_to(self) -> int:
        """Windows that end here or before can change no more."""
        return (self.watermark - self._lateness) // self.pane * self.pane

    @property
    def kept_from(self) -> int:
        """Windows that can still change hold outcomes of this time and later only."""
        return self.final_to + self.pane - self._longest

    def strangers(self, columns: Columns) -> list[str]:
        """Workflows whose earlier outcomes are not known here; `add` is to be told of those that have any."""
        return list({one for one in columns.workflow_id if one and one not in self._workflows})

    def add(self, columns: Columns, known: Mapping[str, Span], now: int) -> list[int]:
        """Takes in outcomes, in the order of numbers. Numbers of those out of time that are of a workflow.

        `known` holds the workflows of `strangers` that have outcomes that came before and were not too late.
        """
        if not len(columns):
            return []
        columns = columns.bounded()
        self._workflows.update(known)
        marks = np.maximum.accumulate(np.minimum(columns.at, columns.stored_at))
        marks = np.maximum(marks, self.watermark)
        late = (columns.at < marks - self._lateness) | (columns.at - AHEAD > columns.stored_at)
        # Where the watermark makes windows final, they are put together before what follows is added.
        final_to = (marks - self._lateness) // self.pane
        cuts = [0, *(np.flatnonzero(np.diff(final_to)) + 1).tolist(), len(columns)]
        left = list(known)
        for start, end in itertools.pairwise(cuts):
            self._finish(int(marks[start]), now, left)
            self._add(columns.part(start, end), late[start:end])
        self.watermark = int(marks[-1])
        self._settle()
        for workflow_id in left:
            span = self._workflows.get(workflow_id)
            if span is not None and not self._is_known(workflow_id, span):
                del self._workflows[workflow_id]
        places = np.flatnonzero(late).tolist()
        self.too_late += len(places)
        return [int(columns.number[n]) for n in places if columns.workflow_id[n]]

    def flush(self, now: int, cost: int = FLUSH_COST, closing: int = CLOSE_COST) -> list[AgentMetrics]:
        """What is to be written; what has a revision is closed and to be published, too.

        Closed windows that have changed come first, the oldest first. Then open ones, those that changed
        longest ago first. Both as far as `closing` and `cost` (nanoseconds, about) allow; the rest comes with
        the next flushes. What alerts are judged by is always brought up to date.
        """
        self._expand(now)
        self._watch(now)
        made, self._final = self._final, []
        for window in sorted(self._windows.values(), key=lambda one: (one.end, one.start)):
            may_close = window.end <= self.watermark or self._may_close(window, now)
            if not may_close and len(window.open) == len(window.rows):
                continue
            for agent in sorted(window.changed | window.open if may_close else window.changed):
                row = window.rows[agent]
                turn = row.made_at + self._pause <= now if row.revision else self._over(window, row, now)
                if turn and closing > 0:
                    closing -= self._cost(self._publish(window, agent, now, made))
        while self._waiting and cost > 0:
            window, agent = self._waiting.popleft()
            row = window.rows[agent]
            if row.revision or agent not in window.changed:
                continue
            # One that is over is open still, and so gets its turn above.
            window.changed.discard(agent)
            if not self._over(window, row, now):
                row.made_at = now
                row.found = self._made(window, agent, 0)
                cost -= self._cost(row.found)
                if row.found is not None:
                    made.append(row.found)
        return made

    def due(self, now: int) -> bool:
        """Whether a flush would bring anything."""
        return bool(self._changed or self._final) or any(
            window.changed
            or (window.open and window.end <= self.watermark)
            or (
                self._may_close(window, now)
                and any(self._closes(window, window.rows[agent], now) for agent in window.open)
            )
            for window in self._windows.values()
        )

    def restore(self, watermark: int, too_late: int, stored: Iterable[AgentMetrics], now: int) -> None:
        """Ends a rebuild: the outcomes from `kept_from` on have been added to this, which was new.

        `stored` are the windows that were written before and end after `final_to` of the watermark.
        """
        self._finish(watermark, now, [])
        self.watermark, self.too_late = watermark, too_late
        self._settle()
        self._expand(now)
        self._final.clear()
        for found in stored:
            window = self._windows.get((found.window, found.window_start.seconds * SECOND))
            row = window.rows.get(found.agent_name) if window is not None else None
            if window is not None and row is not None:
                row.revision, row.found = found.revision, found
                if found.revision:
                    window.open.discard(found.agent_name)
                    # It may have waited for its correction.
                    again = self._made(window, found.agent_name, found.revision)
                    if again is None or same(again, found):
                        window.changed.discard(found.agent_name)

    def figures(
        self, window: str, metric: str, above: float, agents: Collection[str]
    ) -> Mapping[str, Figure]:
        """A metric of the window of this name that held the time of the last flush and ends next.

        Of each agent whose figure is above `above`, and of those of `agents` that have any outcome there.
        """
        board = self._boards.get(window)
        return {} if board is None else board.figures(metric, above, agents)

    def _watch(self, now: int) -> None:
        """Brings what alerts look at up to date."""
        for spec in self.specs.values():
            start = spec.starts(now, now + 1)[0]
            board, moved = self._boards.get(spec.name), self._moved
            panes = [of for at in range(start, start + spec.size, self.pane) if (of := self._panes.get(at))]
            if board is None or board.start != start:
                board = self._boards[spec.name] = Board(start, self._limits)
                moved = set().union(*panes)
            found = [
                (agent, [pane for of in panes if (pane := of.get(agent)) is not None])
                for agent in moved
                if not is_total(agent)
            ]
            board.put([one for one in found if one[1]])
        self._moved = set()

    def _cost(self, found: AgentMetrics | None) -> int:
        return _ROW_COST + (found.outcomes if found else 0) // _OUTCOMES_PER_NS

    def _may_close(self, window: _Window, now: int) -> bool:
        return bool(window.open) and window.end + self._grace <= now

    def _over(self, window: _Window, row: _Row, now: int) -> bool:
        return window.end <= self.watermark or self._closes(window, row, now)

    def _closes(self, window: _Window, row: _Row, now: int) -> bool:
        """By the clock, unless outcomes still come for it: those of a recording would make many revisions."""
        return max(window.end, row.changed_at) + self._grace <= now

    def _publish(
        self, window: _Window, agent: str, now: int, made: list[AgentMetrics]
    ) -> AgentMetrics | None:
        """The row as it stands now; it is to be published if that is news."""
        row = window.rows[agent]
        window.changed.discard(agent)
        window.open.discard(agent)
        found = self._made(window, agent, row.revision + 1)
        # What has come and gone between two publications leaves nothing to correct.
        if found is not None and not (row.revision and row.found is not None and same(found, row.found)):
            row.revision += 1
            row.made_at = now
            row.found = found
            made.append(found)
        return found

    def _made(self, window: _Window, agent: str, revision: int) -> AgentMetrics | None:
        """The row as it stands now; None if what it was made of is not kept any more."""
        starts = range(window.start, window.end, self.pane)
        panes = self._shelf.named(starts, agent)
        if not panes:
            return None
        found = metrics(panes)
        if is_total(agent):
            add_workflows(found, self._shelf.named_flows(starts, agent))
        start = _EPOCH.replace(tzinfo=None) + timedelta(microseconds=window.start)
        found.metrics_id = f"{window.spec.name}/{start.isoformat()}Z/{revision}/{agent}"
        found.agent_name = agent
        found.window = window.spec.name
        found.kind = _HOPPING if window.spec.hops else _TUMBLING
        found.window_start.seconds = window.start // SECOND
        found.window_end.seconds = window.end // SECOND
        found.revision = revision
        return found

    def _add(self, columns: Columns, late: NDArray[np.bool_]) -> None:
        """Adds what is not too late."""
        if late.any():
            columns = columns.where(~late)
        if not len(columns):
            return
        starts, place = np.unique(columns.at // self.pane * self.pane, return_inverse=True)
        codes: dict[str, int] = {}
        code = np.array([codes.setdefault(name, len(codes)) for name in columns.agent_name], dtype=np.int64)
        agents, at = list(codes), starts.tolist()
        tenants: dict[str, int] = {}
        whose = np.array([tenants.setdefault(tenant_of(name), len(tenants)) for name in agents])
        totals, total = np.unique(place * len(tenants) + whose[code], return_inverse=True)
        names = list(tenants)
        together = []
        for n, one in (divmod(key, len(names)) for key in totals.tolist()):
            together.append(self._shelf.total(at[n], names[one]))
            self._change(at[n], total_of(names[one]))
        groups, group = np.unique(place * len(codes) + code, return_inverse=True)
        panes = []
        # What takes in those that are not told apart: the first agents that came have the places.
        crowd = Pane.empty(len(self._limits))
        for n, one in (divmod(key, len(agents)) for key in groups.tolist()):
            pane = self._shelf.agent(at[n], names[whose[one]], agents[one])
            panes.append(crowd if pane is None else pane)
            if pane is not None:
                self._change(at[n], agents[one])
        fill(panes, group, columns, self._limits)
        fill(together, total, columns, self._limits)
        self.crowded += sum(crowd.statuses)
        ids = [n for n, workflow_id in enumerate(columns.workflow_id) if workflow_id]
        if ids:
            self._add_workflows(columns, ids)

    def _add_workflows(self, columns: Columns, places: Sequence[int]) -> None:
        spans = self._workflows
        times = (columns.at[places], columns.started[places], columns.ended[places])
        for n, *when in zip(places, *(each.tolist() for each in times), strict=True):
            workflow_id = columns.workflow_id[n]
            before = spans.get(workflow_id)
            span = before.with_one(*when) if before is not None else Span(*when)
            if span == before:
                continue
            spans[workflow_id] = span
            tenant = tenant_of(workflow_id)
            start = span.newest // self.pane * self.pane
            if before is not None:
                left = before.newest // self.pane * self.pane
                flows = self._shelf.known_flows(left, tenant)
                if flows is not None:
                    flows.remove(workflow_id, before)
                    self._change(left, total_of(tenant))
            self._shelf.flows(start, tenant).put(workflow_id, span)
            self._change(start, total_of(tenant))

    def _change(self, start: int, agent: str) -> None:
        changed = self._changed.get(start)
        if changed is None:
            self._changed[start] = {agent}
        else:
            changed.add(agent)

    def _expand(self, now: int) -> None:
        """Tells windows that can still change of the panes that have."""
        final_to = self.final_to
        for pane, changed in self._changed.items():
            self._moved |= changed
            totals = [total for total in self._shelf.totals(pane) if total in changed]
            foreign = any(total != TOGETHER for total in totals)
            for spec in self.specs.values():
                for start in spec.starts(pane, pane + self.pane):
                    if start + spec.size <= final_to or not _FIRST <= start <= _LAST - spec.size:
                        continue
                    window = self._windows.get((spec.name, start))
                    if window is None:
                        window = self._windows[spec.name, start] = _Window(spec, start)
                    of_mesh = foreign or (totals and MESH_TOTAL in window.rows)
                    agents = {*changed, MESH_TOTAL} if of_mesh else changed
                    self._waiting.extend((window, agent) for agent in agents - window.changed)
                    window.changed |= agents
                    for agent in agents:
                        row = window.rows.get(agent)
                        if row is None:
                            row = window.rows[agent] = _Row()
                            window.open.add(agent)
                        row.changed_at = now
        self._changed.clear()

    def _finish(self, watermark: int, now: int, left: list[str]) -> None:
        """Moves the watermark on, puts the windows that thereby become final together and forgets them.

        Workflows that no pane holds any more are added to `left`.
        """
        if watermark <= self.watermark:
            return
        self._expand(now)
        self.watermark = watermark
        final_to, kept_from = self.final_to, self.kept_from
        over = [window for window in self._windows.values() if window.end <= final_to]
        for window in sorted(over, key=lambda one: (one.end, one.start)):
            for agent in sorted(window.changed | window.open):
                self._publish(window, agent, now, self._final)
            del self._windows[window.spec.name, window.start]
        left.extend(self._shelf.forget_before(kept_from))

    def _settle(self) -> None:
        """Lets go of what hardly anything comes for any more, once a pane."""
        upto = (self.watermark - self._rest) // self.pane * self.pane
        if upto <= self._settled_to:
            return
        self._settled_to = upto
        # Windows that are open are put together all the while.
        for workflow_id in self._shelf.settle(upto, upto - self._longest):
            del self._workflows[workflow_id]

    def _is_known(self, workflow_id: str, span: Span) -> bool:
        """Whether the pane of its newest outcome tells it apart."""
        flows = self._shelf.known_flows(span.newest // self.pane * self.pane, tenant_of(workflow_id))
        return flows is not None and workflow_id in flows
