"""One run: the mesh comes up, callers begin, faults follow each other, everything is accounted for."""

import asyncio
import json
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.chaos import observe
from tests.faults.chaos.audit import Account, never_broadcast, older_after_newer, settle, told_twice
from tests.faults.chaos.inflict import inflict
from tests.faults.chaos.ledger import DELIVERY, ORDER, OUTCOME, Ledger
from tests.faults.chaos.load import Load
from tests.faults.chaos.mesh import FRESH, Mesh
from tests.faults.chaos.plan import Fault, Kind, plan
from tests.faults.chaos.reader import BROADCAST

# Until the mesh is whole again after a fault, and everything is delivered after all of them, in seconds.
_RECOVERY_S: Final = 90.0
_DRAIN_S: Final = 120.0
_PAUSE_S: Final = 0.3
_LOOK_AGAIN_S: Final = 0.2
_RECORDER: Final = "recorder"


@dataclass(frozen=True, slots=True)
class Options:
    """What to do. `report` is the folder for findings; `each_once`: no kind twice before all have been."""

    seed: int
    faults: int
    kafka: bool
    servers: str | None
    report: Path
    each_once: bool = False
    only: tuple[Kind, ...] = ()


@dataclass
class Result:
    """What came of it."""

    seed: int
    bus: str
    done: list[Fault] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    acknowledged: int = 0
    raw_duplicates: int = 0
    alerts: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    during: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unrecovered: list[str] = field(default_factory=list)
    recoveries: list[tuple[float, str]] = field(default_factory=list)
    """Seconds from the end of faults until all was well, and which they were and who was last."""
    longest_outage_s: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, given twice or in a wrong order, wrongly refused, or not served again."""
        return self.account.clean and not self.wrong and not self.unrecovered

    def line(self) -> str:
        """JSON on one line."""
        kinds = Counter(str(fault.kind) for fault in self.done)
        told: dict[str, Any] = {
            "seed": self.seed,
            "faults": len(self.done),
            "acknowledged": self.acknowledged,
            "stored": self.account.stored,
            "published": self.account.published,
            "stored_only": self.account.stored_only,
            "lost": len(self.account.lost),
            "duplicates": len(self.account.duplicates),
            "out_of_order": len(self.account.out_of_order),
            "kinds": dict(sorted(kinds.items())),
            "bus": self.bus,
            "seconds": round(self.seconds, 1),
            "raw_duplicates": self.raw_duplicates,
            "alerts": self.alerts,
            "errors_seen_by_callers": sum(self.errors.values()),
            "errors_during": dict(self.during.most_common()),
            "wrongly_refused": len(self.wrong),
            "unrecovered": len(self.unrecovered),
            "longest_recovery_s": round(max(self.recoveries, default=(0.0, ""))[0], 1),
            "longest_outage_s": round(self.longest_outage_s, 1),
        }
        return json.dumps(told)


class Run:
    """Make one, `execute` it once, `close` it whatever happens."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._idle = asyncio.Event()
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.mesh = Mesh(folder, kafka=options.kafka, servers=options.servers, said=self._heard)
        self.faults = plan(
            options.seed,
            options.faults,
            kafka=options.kafka and options.servers is None,
            each_once=options.each_once,
            only=options.only,
        )
        self.result = Result(options.seed, "kafka" if options.kafka else "embedded")
        self._load: Load | None = None
        # Events of orders as each reader of everything was given them, by who it was.
        self._broadcast: defaultdict[str, list[str]] = defaultdict(list)

    async def execute(self) -> Result:
        """All of it, to the account. Raises what the harness itself meets."""
        began = time.monotonic()
        self._tell("starting the mesh")
        await self.mesh.start()
        self._load = Load(self.mesh.targets, self.ledger)
        self.ledger.begin(_RECORDER)
        self._load.start()
        await self._until_served([])
        for group in _groups(self.faults):
            await self._suffer(group)
        await self._account()
        self.result.errors += self._load.errors
        self.result.during = self._load.during
        self.result.wrong = self._load.wrong
        self.result.longest_outage_s = self.ledger.longest_s
        self.result.acknowledged = self.ledger.count
        self.result.seconds = time.monotonic() - began
        return self.result

    async def close(self) -> None:
        """Ends everything that runs; keeps logs, ledger and findings where anything was wrong."""
        if self._load is not None:
            await self._load.close()
        try:
            await self.mesh.close()
        finally:
            self.ledger.close()
            self._tell("")

    def keep(self) -> Path:
        """Puts what is needed to understand the run into the report's folder."""
        place = self._options.report / f"{self.result.bus}-{self._options.seed}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for source in (self._folder / "logs", self._folder / "mesh" / "logs"):
            if source.is_dir():
                shutil.copytree(source, place / "logs", dirs_exist_ok=True)
        for log in (self._folder / "ledger.jsonl", self._folder / "database" / "postgres" / "postgres.log"):
            if log.is_file():
                shutil.copy(log, place)
        (place / "up.log").write_text("\n".join(self.mesh.up_lines))
        (place / "faults.txt").write_text(
            "\n".join(f"{fault.number} {fault.told()}" for fault in self.faults) + "\n"
        )
        account = self.result.account
        findings = [
            *(f"lost: {one.what}: {one.id} (fault {one.fault})" for one in account.lost),
            *(f"twice: {one.what}: {one.id} (fault {one.fault})" for one in account.duplicates),
            *(f"out of order: {one.id} {one.what}" for one in account.out_of_order),
            *(f"wrong: {words}" for words in self.result.wrong),
            *(f"unrecovered: {words}" for words in self.result.unrecovered),
            *(f"well after {took:.1f} s: {told}" for took, told in sorted(self.result.recoveries)[::-1]),
            f"errors: {dict(self.result.errors)}",
        ]
        (place / "findings.txt").write_text("\n".join(findings) + "\n")
        (place / "result.json").write_text(self.result.line() + "\n")
        return place

    async def _suffer(self, group: Sequence[Fault]) -> None:
        """Faults that overlap, then the way back."""
        tasks = []
        assert self._load is not None
        self._load.suffering = "+".join(sorted({fault.kind for fault in group}))
        for fault in group:
            self.ledger.fault = fault.number
            self._tell(f"fault {fault.number}/{len(self.faults)} {fault.told()}")
            tasks.append(asyncio.create_task(inflict(self.mesh, fault)))
            self.result.done.append(fault)
            if fault is not group[-1]:
                await asyncio.sleep(fault.lasts_s / 2)
        await asyncio.gather(*tasks)
        await self._until_served(group)
        await asyncio.sleep(_PAUSE_S)

    async def _until_served(self, group: Sequence[Fault]) -> None:
        """Everybody is well, and every caller has been acknowledged something that was asked since."""
        began, since = time.monotonic(), self.ledger.now_s
        told = " and ".join(f"{fault.number} {fault.told()}" for fault in group)
        assert self._load is not None
        last: list[str] = []
        while missing := await self.mesh.well() + self.ledger.waiting(since):
            last = missing
            self._load.check()
            if time.monotonic() - began > _RECOVERY_S:
                self.result.unrecovered.append(f"{told}: {', '.join(missing)}")
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        if group:
            self.result.recoveries.append((time.monotonic() - began, f"{told}; last: {', '.join(last)}"))

    async def _account(self) -> None:
        assert self._load is not None
        self._tell("all faults are over; callers finish")
        self.mesh.clocks.right()
        await self._load.finish(_DRAIN_S)
        self.mesh.children["recorder"].tell("stop")
        try:
            await asyncio.wait_for(self._idle.wait(), _DRAIN_S)
        except TimeoutError:
            self.result.unrecovered.append("the recorder does not get rid of its spool")
        self._tell("the account")
        connection = await observe.look(self.mesh)
        try:
            await observe.drained(self.mesh, connection, _DRAIN_S)
            lies = await observe.lying(self.mesh, connection)
            seen = await observe.readers(self.mesh, connection, lies, self._broadcast, _DRAIN_S)
            rows = await observe.stored(connection)
            alerts = await observe.alerts(connection, FRESH)
        finally:
            await connection.close()
        self.result.raw_duplicates = sum(n - 1 for ids in lies.values() for n in ids.values())
        self.result.account = settle(
            {kind: self.ledger.of(kind) for kind in (OUTCOME, DELIVERY, ORDER)},
            outcomes=rows.outcomes,
            deliveries=rows.deliveries,
            orders=rows.orders,
            readers=seen,
        )
        self._order(self.result.account, lies[BROADCAST])
        self.result.account.duplicates += told_twice(alerts)
        self.result.alerts = len(alerts)

    def _order(self, account: Account, lying: Iterable[str]) -> None:
        account.out_of_order += older_after_newer("the topic", lying)
        for life, ids in self._broadcast.items():
            account.out_of_order += older_after_newer(f"the reader {life}", ids)
        fresh = observe.to_all(self._broadcast, FRESH)
        account.lost += never_broadcast("a new reader of everything", self.ledger.of(ORDER), fresh)

    def _heard(self, line: str) -> None:
        word, *ids = line.split(" ")
        if word == "safe":
            self.ledger.acknowledge(_RECORDER, OUTCOME, [(id_, 1) for id_ in ids])
        elif word == "lost":
            self.result.errors["recorder DROPPED"] += int(ids[0])
        elif word == "orders":
            self._broadcast[ids[0]] += ids[1:]
        elif word == "idle":
            self._idle.set()

    def _tell(self, words: str) -> None:
        head = f"{self.ledger.now_s:6.0f} s  {self.ledger.count:7} acknowledged  " if words else ""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{head}{words}", end="", file=sys.stderr, flush=True)
        elif words:
            print(f"{head}{words}", file=sys.stderr, flush=True)


def _groups(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Those that overlap together."""
    groups: list[list[Fault]] = []
    for fault in faults:
        if fault.overlaps and groups and len(groups[-1]) < 2:
            groups[-1].append(fault)
        else:
            groups.append([fault])
    return groups
