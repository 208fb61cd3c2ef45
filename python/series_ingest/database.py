"""Connections to the database, by psycopg."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

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


@contextmanager
def transaction(dsn: str, schema: str | None, *, read_only: bool) -> Iterator[Connection]:
    """A connection in one transaction, which is committed at the end; a read-only one sees one snapshot."""
    try:
        import psycopg
        from psycopg import sql
    except ImportError as error:
        raise ImportError("reading and saving take psycopg: pip install 'series-ingest[read]'") from error
    with psycopg.connect(dsn) as connection:
        if read_only:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
        # Tables of other programs may have times without a zone, which are UTC.
        connection.execute("set local time zone 'UTC'")
        if schema is not None:
            connection.execute(sql.SQL("set local search_path = {}").format(sql.Identifier(schema)))
        yield connection
