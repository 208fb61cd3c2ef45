"""Move a pickle of series: a dictionary {id: TimeSeries(id, data, time_column, value_columns)}.

The pickle is refused, before anything of it runs, if it refers to anything that frames do not need.
With --brokers each series is published, and a worker writes it. With --out each becomes a file: Parquet with the definition
in its footer if pyarrow is installed, otherwise CSV with the definition in a JSON file of the same name.
A series that cannot be moved is reported, and the others are moved.

examples:
  python -m series_ingest.migrate storage.pkl --dry-run
  python -m series_ingest.migrate storage.pkl --brokers localhost:9092
  python -m series_ingest.migrate storage.pkl --out exported/

exit codes:
  0   all series were moved
  1   some series were not
  64  invalid usage
  65  the pickle is refused, or damaged
  66  the pickle cannot be read
  69  no broker is available
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from . import files
from .errors import PickleRefused, PublishError
from .frames import TIME_WINDOW, Wide, normalise
from .pickle_store import StoredSeries, load_store
from .producer import publish
from .series import TimeSeries

OK, SOME_FAILED, USAGE, REFUSED, NO_INPUT, UNAVAILABLE = 0, 1, 64, 65, 66, 69


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m series_ingest.migrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pickle", type=Path, help="the file")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--brokers", help="publish to these brokers: host:port, separated by commas")
    target.add_argument("--out", type=Path, metavar="DIR", help="write a file for each series into this folder")
    target.add_argument("--dry-run", action="store_true", help="check the series and list them")
    parser.add_argument("--format", choices=("parquet", "csv"), help="of --out; default: parquet if pyarrow is installed")
    parser.add_argument("--series", action="append", metavar="ID", help="only this series; may be repeated")
    parser.add_argument("--series-topic", help="the topic of definitions; default: as in publish")
    parser.add_argument("--points-topic", help="the topic of points; default: as in publish")
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE", help="a property of librdkafka")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds without an acknowledgement; default: %(default)g")
    parser.add_argument("--truncate-times", action="store_true", help="truncate times finer than a microsecond")
    parser.add_argument("--allow-inexact", action="store_true", help="round integers beyond 2**53")
    parser.add_argument(
        "--time-window", nargs=2, default=TIME_WINDOW, metavar=("FROM", "UNTIL"), help="times that the worker accepts; default: %(default)s"
    )
    found = parser.parse_args(arguments)
    if found.format == "parquet" and not files.has_parquet():
        parser.error("--format parquet takes pyarrow: pip install 'series-ingest[parquet]'")
    if any("=" not in setting for setting in found.property):
        parser.error("--property takes NAME=VALUE")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit code."""
    options = _arguments(arguments)
    try:
        data = options.pickle.read_bytes()
    except OSError as error:
        return _failed(NO_INPUT, f"{options.pickle}: {error.strerror}")
    try:
        store = load_store(data)
    except PickleRefused as error:
        return _failed(REFUSED, f"{options.pickle}: {error}")
    if options.series:
        missing = set(options.series) - {stored.key for stored in store}
        if missing:
            return _failed(USAGE, f"{options.pickle} has no series {min(missing)!r}")
        store = [stored for stored in store if stored.key in options.series]
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return _failed(USAGE, f"{options.out}: {error.strerror}")
    failed = 0
    for number, stored in enumerate(store, 1):
        try:
            said = _move(stored, options)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, OSError, PublishError) as error:
            failed += 1
            _say(f"[{number}/{len(store)}] {stored.key!r} FAILED: {error}")
            if isinstance(error, PublishError) and error.is_unreachable:
                return _failed(UNAVAILABLE, f"no broker is available; {number - failed} of {len(store)} series were moved")
        else:
            print(f"[{number}/{len(store)}] {said}", flush=True)
    what = "can be moved" if options.dry_run else "were moved"
    print(f"{len(store) - failed} of {len(store)} series {what}", flush=True)
    return SOME_FAILED if failed else OK


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)


def _failed(code: int, text: str) -> int:
    _say(f"migrate: {text}")
    return code


def _move(stored: StoredSeries, options: argparse.Namespace) -> str:
    """Moves a series, and returns what was done."""
    series = stored.series()
    series.data = _with_times(series)
    checks: dict[str, Any] = {
        "columns": series.value_columns,
        "time_column": series.time_column,
        "duplicates": "all",
        "truncate_times": options.truncate_times,
        "allow_inexact": options.allow_inexact,
        "time_window": tuple(options.time_window),
    }
    if options.brokers is not None:
        published = publish(
            series.data,
            series.id,
            options.brokers,
            name=series.name,
            description=series.description,
            labels=series.labels,
            series_topic=options.series_topic,
            points_topic=options.points_topic,
            properties=dict(setting.split("=", 1) for setting in options.property),
            timeout=options.timeout,
            **checks,
        )
        return f"{series.id!r}: {len(published.frame)} rows in {published.messages} messages"
    wide = normalise(series.data, **checks)
    described = f"{series.id!r}: {len(wide.times)} rows, {len(wide.columns)} columns{_span(wide)}"
    if options.out is None:
        return described
    defined = files.definition(series.id, wide, series.name, series.description, series.labels)
    parquet = files.has_parquet() if options.format is None else options.format == "parquet"
    return f"{described}, in {files.write(options.out, wide, defined, parquet=parquet)}"


def _span(wide: Wide) -> str:
    if not len(wide.times):
        return ""
    first, last = (pd.Timestamp(int(time), unit="us", tz="UTC").isoformat() for time in (wide.times[0], wide.times[-1]))
    return f", {first} to {last}"


_ISO_8601 = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|[+-]\d\d(:?\d\d)?))?)?")


def _with_times(series: TimeSeries) -> pd.DataFrame:
    """The frame, with times that are strings converted: a store has no other way to be corrected.

    One by one: pandas 2 gives a string without a zone that of the string before it.
    """
    data = series.data
    if series.time_column not in data.columns:
        return data
    times = data[series.time_column]
    if not len(times) or not isinstance(times.iloc[0], str):
        return data
    converted = np.empty(len(times), dtype=object)
    for row, time in enumerate(times):
        if not isinstance(time, str) or not _ISO_8601.fullmatch(time):
            raise ValueError(f"row {row}, time column {series.time_column!r}: {time!r} is not a time of ISO 8601")
        converted[row] = pd.Timestamp(time)
    return data.assign(**{series.time_column: pd.Series(converted, index=data.index, dtype=object)})


if __name__ == "__main__":
    sys.exit(main())
