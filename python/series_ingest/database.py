"""Connections to the database, by psycopg."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from .errors import NotFresh

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

_Result = TypeVar("_Result")

# A standby has to apply what a query does not survive, or is shut down: the same query can be asked again.
_INTERRUPTED = {"40001", "40P01", "57P01", "57P02"}
_REPEATS = 8
# Pause between two looks at the progress, in seconds.
_PAUSE_S = 0.05
# A topic that was recreated, or is in another cluster now, has several sources: the one that was written last counts.
_PROGRESS = """select progress.next_offset, progress.next_offset > %s or progress.ahead @> %s::bigint
    from (
        select id from ingest_source as source
        where pipeline = %s and topic = %s and cluster_id <> 'file'
        order by greatest(created_at, (select max(updated_at) from ingest_progress where source_id = source.id)) desc, id desc
        limit 1
    ) as source
    join ingest_progress as progress on progress.source_id = source.id and progress.partition = %s"""

# asyncpg's words for libpq's sslmode, and for a context that it makes itself.
_SSL = {"true": "require", "false": "disable"}


def libpq_url(dsn: str) -> str:
    """A URL of SQLAlchemy's form as libpq has it; anything else as it is.

    `postgresql+asyncpg://` becomes `postgresql://`, and its parameter `ssl` becomes `sslmode`.
    """
    match = re.match(r"(postgres(?:ql)?)\+\w+://", dsn)
    if match is None:
        return dsn
    url, mark, query = dsn.partition("?")
    url = f"{match[1]}://{url[match.end() :]}"
    if not mark:
        return url
    parameters = parse_qsl(query, keep_blank_values=True)
    renamed = [("sslmode", _SSL.get(value, value)) if key == "ssl" else (key, value) for key, value in parameters]
    return f"{url}?{urlencode(renamed, quote_via=quote)}"


def checked_dsn(dsn: str | None) -> str:
    """The connection string, or that of the environment variable DATABASE_URL.

    Raises:
        ValueError: there is neither.
    """
    found = dsn or os.environ.get("DATABASE_URL")
    if not found:
        raise ValueError("dsn is missing, and the environment variable DATABASE_URL is not set")
    return libpq_url(found)


@dataclass(frozen=True)
class Fresh:
    """The messages that a read must see, and how long to wait for them.

    Attributes:
        offsets: the highest offset of each topic and partition.
        within: seconds.
        pipeline: the pipeline whose progress counts.
    """

    offsets: Mapping[tuple[str, int], int]
    within: float
    pipeline: str


@contextmanager
def transaction(dsn: str, schema: str | None, *, read_only: bool, fresh: Fresh | None = None) -> Iterator[Connection]:
    """A connection in one transaction, which is committed at the end; a read-only one sees one snapshot."""
    try:
        import psycopg
        from psycopg import sql
    except ImportError as error:
        raise ImportError("reading and saving take psycopg: pip install 'series-ingest[read]'") from error
    with psycopg.connect(dsn) as connection:
        if fresh is not None and fresh.offsets:
            connection.autocommit = True
            if schema is not None:
                connection.execute(sql.SQL("set search_path = {}").format(sql.Identifier(schema)))
            _wait(connection, fresh)
            connection.autocommit = False
        if read_only:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
        # Tables of other programs may have times without a zone, which are UTC.
        connection.execute("set local time zone 'UTC'")
        if schema is not None:
            connection.execute(sql.SQL("set local search_path = {}").format(sql.Identifier(schema)))
        yield connection


def reading(dsn: str, schema: str | None, work: Callable[[Connection], _Result], fresh: Fresh | None = None) -> _Result:
    """What `work` returns in a read-only transaction. It is called again, in another one, if a standby interrupts it."""
    for is_last in [False] * _REPEATS + [True]:
        try:
            with transaction(dsn, schema, read_only=True, fresh=fresh) as connection:
                return work(connection)
        except Exception as error:
            # Errors of psycopg have it.
            if is_last or getattr(error, "sqlstate", None) not in _INTERRUPTED:
                raise
    raise AssertionError("the last attempt returns or raises")


def _wait(connection: Connection, fresh: Fresh) -> None:
    deadline = time.monotonic() + fresh.within
    for (topic, partition), offset in fresh.offsets.items():
        while True:
            found = connection.execute(_PROGRESS, [offset, offset, fresh.pipeline, topic, partition]).fetchone()
            if found is not None and found[1]:
                break
            if time.monotonic() >= deadline:
                raise NotFresh(topic, partition, offset, None if found is None else found[0], fresh.within)
            time.sleep(_PAUSE_S)
