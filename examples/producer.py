#!/usr/bin/env python3
"""Publish a CSV file as one series: its definition, then its rows as point batches in columns.

    pip install confluent-kafka
    python examples/producer.py --brokers localhost:9092 examples/seattle-weather.csv

The first column has the times, every other column numbers; an empty cell is NULL.
A column whose first cell is neither is skipped.
The series' id is the file's name without its ending.
"""

import argparse
import csv
import itertools
import json
import sys
from pathlib import Path

from confluent_kafka import KafkaException, Producer


def arguments():
    parser = argparse.ArgumentParser(description="Publish a CSV file as one series")
    parser.add_argument("file", type=Path, help="a CSV file with a header")
    parser.add_argument("--brokers", default="localhost:9092", help="host:port, separated by commas")
    parser.add_argument("--series", help="the series' id; default: the file's name without its ending")
    parser.add_argument("--series-topic", default="time-series.series")
    parser.add_argument("--points-topic", default="time-series.points")
    parser.add_argument("--timestamps", type=int, default=1000, metavar="N", help="timestamps in one message")
    return parser.parse_args()


def number(cell):
    """A cell as a number; an empty one is NULL. float() also reads nan and inf, which series-ingest accepts."""
    return float(cell) if cell.strip() else None


def is_number(cell):
    try:
        number(cell)
    except ValueError:
        return False
    return True


def batches(file, series, size):
    """The definition of the series, then its point batches."""
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.reader(lines)
        header, first = next(reader), next(reader)
        # The places of the columns with numbers: a text in one would make the whole message invalid.
        columns = {name: at for at, name in enumerate(header) if at > 0 and is_number(first[at])}
        yield {
            "type": "series-create", "id": series, "name": series,
            "time_column": header[0], "value_columns": list(columns),
        }
        times, values = [], {column: [] for column in columns}
        for row in itertools.chain([first], reader):
            # Dates and times have dashes: 2012-01-01, or 2012-01-01T00:00:00Z.
            times.append(row[0].replace("/", "-"))
            for column, at in columns.items():
                values[column].append(number(row[at]))
            if len(times) == size:
                yield points(series, times, values)
                times, values = [], {column: [] for column in columns}
        if times:
            yield points(series, times, values)


def points(series, times, values):
    return {"type": "point-batch", "time_series_id": series, "timestamps": times, "columns": values}


def main():
    options = arguments()
    series = options.series or options.file.stem
    failures = []

    def delivered(error, _message):
        if error is not None:
            failures.append(error)

    producer = Producer({
        "bootstrap.servers": options.brokers,
        # The producer's own retries create no duplicates, and a message is acknowledged by all replicas in sync.
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "zstd",
        "linger.ms": 20,
    })
    published = 0
    for message in batches(options.file, series, options.timestamps):
        topic = options.series_topic if message["type"] == "series-create" else options.points_topic
        payload = json.dumps(message, separators=(",", ":")).encode()
        while True:
            try:
                # One key for a series: its points stay in one partition, in their order.
                producer.produce(topic, key=series, value=payload, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)  # The local queue is full: wait for deliveries.
        producer.poll(0)
        published += 1
    outstanding = producer.flush(30)
    if failures or outstanding:
        reason = failures[0] if failures else "no answer within 30 s"
        sys.exit(f"{len(failures) + outstanding} of {published} messages are not delivered: {reason}")
    print(f"{published} messages of the series {series} are published")


if __name__ == "__main__":
    try:
        main()
    except (KafkaException, OSError, ValueError) as error:
        sys.exit(f"producer.py: {error}")
