"""`waymesh dead-letters`."""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from services.cli import environment
from services.cli.errors import CliError
from services.cli.event_place import EventPlace, bus_pool, event_place, kafka_trouble, reach
from services.cli.event_text import value_text
from services.cli.output import say
from services.cli.table import print_table

if TYPE_CHECKING:
    import asyncpg

    from services.mesh.events.letters import Letter, Wanted

F = TypeVar("F", bound=Callable[..., Any])

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORT: Final = 8


@click.group("dead-letters")
def command() -> None:
    """See what could not be handled, and send it back once it can be.

    An event that a service cannot read goes to the topic dead-letters, with the reason and where it came
    from, and the rest goes on. These commands read it in the Kafka cluster that KAFKA_BOOTSTRAP_SERVERS
    names; else on the embedded event bus, in the database that DATABASE_URL names or that `waymesh up` runs.

    \b
    waymesh dead-letters list --topic orders --since 2h
    waymesh dead-letters show 3f2a91c4
    waymesh dead-letters replay --all --topic orders --reason "unknown enum"
    """


class _Since(click.ParamType[datetime]):
    """A moment: RFC 3339, or how long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        ago = re.fullmatch(r"(\d{1,6})([smhd])", value)
        if ago is not None:
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"'{value}' is no time: give 30m, 2h, 7d or 2026-01-31T12:00:00Z", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _filters(function: F) -> F:
    for option in (
        click.option("--limit", type=click.IntRange(1), help="The newest so many."),
        click.option("--reason", metavar="TEXT", help="With this text in the reason, in whatever case."),
        click.option("--since", type=_Since(), help="Died since then: 30m, 2h, 7d or 2026-01-31T12:00:00Z."),
        click.option("--group", metavar="GROUP", help="That this group could not handle: waymesh.eta."),
        click.option("--topic", metavar="TOPIC", help="That came from this topic: gps-events."),
    ):
        function = option(function)
    return function


@command.command("list")
@_filters
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_(
    topic: str | None,
    group: str | None,
    since: datetime | None,
    reason: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show dead letters, newest first; 50 of them unless --limit says otherwise.

    \b
    waymesh dead-letters list --group waymesh.route --since 1d
    waymesh dead-letters list --limit 1000 --json | jq -r .reason | sort | uniq -c
    """
    from services.mesh.events.letters import Wanted

    found = asyncio.run(_found(event_place(), Wanted((), topic, group, since, reason), limit or 50))
    if as_json:
        for letter in found.letters:
            say(json.dumps(_as_dict(letter, found), ensure_ascii=False))
        return
    if not found.letters:
        say(f"no dead letters{'' if not (topic or group or since or reason) else ' of this kind'}")
        return
    print_table(
        ["ID", "DIED", "FROM", "GROUP", "EVENT", "REPLAYED", "REASON"],
        [
            [
                letter.id[:_SHORT],
                _time(letter.time),
                _place(letter),
                letter.group,
                letter.event_id,
                found.replayed(letter),
                letter.reason,
            ]
            for letter in found.letters
        ],
    )


@command.command("show")
@click.argument("letter_id", metavar="ID")
def show(letter_id: str) -> None:
    """Show all of one dead letter: where it came from, why it died, its headers and its value.

    ID is as `waymesh dead-letters list` shows it, or more of it.
    """
    from services.mesh.events.letters import Wanted

    found = asyncio.run(_found(event_place(), Wanted((letter_id,)), None))
    letter = _one(found.letters, letter_id)
    for name, value in (
        ("id", letter.id),
        ("died", _time(letter.time)),
        ("from", _place(letter)),
        ("group", letter.group or "-"),
        ("reason", letter.reason),
        ("event", letter.event_id),
        ("published", _published(letter)),
        ("key", letter.key or "-"),
        ("type", letter.type or "-"),
        ("content", letter.content_type or "none named: JSON"),
        ("replayed", found.replayed(letter)),
    ):
        say(f"{name:<10} {value}")
    for name, value in sorted(letter.headers.items()):
        say(f"{'header':<10} {name}: {value}")
    say()
    say(value_text(letter))


@command.command("replay")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that the filters let through.")
@_filters
@click.option("--again", is_flag=True, help="Those that were sent back before, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay(
    ids: tuple[str, ...],
    everything: bool,
    topic: str | None,
    group: str | None,
    since: datetime | None,
    reason: str | None,
    limit: int | None,
    again: bool,
    yes: bool,
) -> None:
    """Send dead letters back to the topics they came from: same bytes, key, headers and event id.

    Worth it once what was wrong is mended: a newer service that knows the field, an order that is there now.
    What had been handled after all changes nothing, since events are handled once by their id. The letters
    stay where they are, marked; one that was sent back is not sent a second time without --again. The oldest
    go first.

    \b
    waymesh dead-letters replay 3f2a91c4
    waymesh dead-letters replay --all --topic orders --since 2h --yes
    """
    from services.mesh.events.letters import Wanted

    filtered = bool(topic or group or since or reason or limit)
    if everything == bool(ids) or (ids and filtered):
        raise click.UsageError("give IDs, or --all with or without filters")
    place = event_place()
    if place.dsn is None:
        raise CliError(
            "replaying goes through the database of the services: set DATABASE_URL, "
            f"or run `waymesh up` on {environment.data_dir()} first"
        )
    found = asyncio.run(_found(place, Wanted(ids, topic, group, since, reason), limit))
    for given in ids:
        _one(found.letters, given)
    due = [letter for letter in found.letters if again or letter.id not in found.marks]
    before = len(found.letters) - len(due)
    if not due:
        words = f"{before} sent back before: --again sends them once more" if before else "no dead letters"
        if ids:
            raise CliError(f"nothing to send back: {words}")
        say(f"nothing to send back: {words}")
        return
    if not yes:
        _confirm(f"Send {_count(due)} back in {place.name}?")
    if not asyncio.run(_replay(place.dsn, due[::-1], again)):
        raise CliError("some were not sent back, for the reasons above")
    if before and not again:
        say(f"{before} sent back before were left out: --again sends them once more")


def _confirm(question: str) -> None:
    """Goes on only after a yes. Raises UsageError if there is nobody to give one."""
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            click.confirm(question, abort=True, err=True)
        except click.Abort:
            say(err=True)  # the end of the input, and Ctrl-C, leave the cursor behind the question
            raise
        return
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        raise click.UsageError("nobody can be asked here: give --yes")
    if answer.strip().lower() not in ("y", "yes"):
        raise click.Abort


@dataclass(frozen=True, slots=True)
class _Found:
    letters: Sequence["Letter"]
    marks: Mapping[str, Sequence[datetime]]
    """When they were sent back, by id."""
    marks_known: bool

    def replayed(self, letter: "Letter") -> str:
        times = self.marks.get(letter.id, ())
        if not times:
            return "-" if self.marks_known else "?"
        return _time(times[-1]) + (f" ({len(times)} times)" if len(times) > 1 else "")


async def _found(place: EventPlace, wanted: "Wanted", limit: int | None) -> _Found:
    from services.mesh.events.letter_box import find, in_kafka, in_postgres, replays
    from services.mesh.events.topics import DEAD_LETTERS, TOPICS

    async with AsyncExitStack() as stack:
        pool: asyncpg.Pool | None = None
        if place.dsn is not None:
            pool = await stack.enter_async_context(bus_pool(place.dsn))
        if place.kafka is None:
            assert pool is not None
            letters = await find(in_postgres(pool), wanted, limit)
        else:
            from services.mesh.events.postgres_log import UnknownTopicError

            with kafka_trouble(place):
                await reach(place)
                try:
                    letters = await find(in_kafka(place.kafka), wanted, limit)
                except UnknownTopicError as error:
                    name = place.kafka.name_in_cluster(DEAD_LETTERS)
                    raise CliError(
                        f"{place.name} has no topic '{name}': run `waymesh topics create`"
                    ) from error
        if not letters and wanted.topic is not None and wanted.topic not in TOPICS:
            raise CliError(f"there is no topic '{wanted.topic}', only {', '.join(TOPICS)}")
        marks = await replays(pool, letters) if pool is not None else {}
    return _Found(letters, marks, pool is not None)


async def _replay(dsn: str, letters: Sequence["Letter"], again: bool) -> bool:
    """Sends them back one by one, each said; whether all could be."""
    from services.mesh.events.letter_box import NotReplayableError
    from services.mesh.events.letter_box import replay as send_back

    sent = 0
    async with bus_pool(dsn) as pool:
        for letter in letters:
            try:
                if await send_back(pool, letter, again=again):
                    sent += 1
                    say(f"{letter.id} → {letter.topic}")
                else:
                    say(f"{letter.id} was sent back meanwhile", err=True)
            except NotReplayableError as error:
                say(f"{letter.id} cannot be sent back: {error}", err=True)
    say(f"{sent} of {len(letters)} sent back")
    return sent == len(letters)


def _one(letters: Sequence["Letter"], given: str) -> "Letter":
    from services.mesh.events.letters import is_id

    found = [letter for letter in letters if is_id(letter, given)]
    if not found:
        raise CliError(f"there is no dead letter {given}: `waymesh dead-letters list` shows what there is")
    if len(found) > 1:
        raise CliError(f"{given} is the beginning of {len(found)} dead letters: give more of it")
    return found[0]


def _as_dict(letter: "Letter", found: _Found) -> dict[str, object]:
    return {
        "id": letter.id,
        "time": _moment(letter.time),
        "topic": letter.topic,
        "partition": letter.partition,
        "position": letter.position,
        "group": letter.group,
        "event_id": letter.event_id,
        "source": letter.source,
        "published": _moment(letter.happened) if letter.happened is not None else None,
        "reason": letter.reason,
        "key": letter.key,
        "type": letter.type,
        "content_type": letter.content_type,
        "headers": dict(letter.headers),
        "bytes": letter.omitted_bytes or len(letter.value),
        "replayed": [_moment(one) for one in found.marks.get(letter.id, ())] if found.marks_known else None,
    }


def _place(letter: "Letter") -> str:
    return f"{letter.topic or '?'}/{letter.partition}@{letter.position}"


def _published(letter: "Letter") -> str:
    by = f"by {letter.source}" if letter.source else "(by whom is not said)"
    return f"{_time(letter.happened)} {by}"


def _count(letters: Sequence["Letter"]) -> str:
    topics = sorted({letter.topic for letter in letters})
    noun = "dead letter" if len(letters) == 1 else "dead letters"
    return f"{len(letters)} {noun} of {', '.join(topics)}"


def _moment(moment: datetime) -> str:
    """As everywhere in the API: RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if moment is not None else "?"
