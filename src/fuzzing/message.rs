//! Any bytes as a message.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use crate::input::native::NativeDecoder;
use crate::message::Points;
use crate::message::{Limits, Message, Reason, Rejected};
use crate::raw::Kind;

/// 1900-01-01 to 2200-01-01.
const WINDOW_US: std::ops::Range<i64> = -2_208_988_800_000_000..7_258_118_400_000_000;

/// Small enough that a fuzzer reaches the limits.
pub(super) fn limits() -> Limits {
    Limits {
        max_bytes: 4096,
        max_points: 16,
        max_name_bytes: 24,
        min_us: WINDOW_US.start,
        max_us: WINDOW_US.end,
        deny_unknown_fields: false,
    }
}

type Row = (String, String, i64, u64);

fn rows(points: &Points) -> Vec<Row> {
    (0..points.len())
        .map(|index| {
            let (series, column, time, value) = points.get(index);
            (series.to_owned(), column.to_owned(), time, value.to_bits())
        })
        .collect()
}

fn names(points: &Points) -> Vec<(String, Vec<String>)> {
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    points.series_columns().into_iter().map(|(series, columns)| (series.to_owned(), owned(columns))).collect()
}

/// Decodes the input as a message of either topic, and if it is valid, as a number and as a text of a message.
///
/// # Panics
/// If a rejected message leaves something in the batch, a detail has no position, points are outside the limits, what is not
/// JSON is accepted, an unknown field is not counted, or a number or a time is parsed differently than by others.
pub fn message(input: &[u8]) {
    for kind in [Kind::Points, Kind::Series] {
        decode(kind, input);
    }
    // Any bytes as headers, whether they are accepted or not.
    drop(NativeDecoder::new(limits()).check_envelope(Some(input), Some(input)));
    if let Ok(text) = std::str::from_utf8(input) {
        if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && is_json(input) && text.trim_end() == text {
            number(text);
        }
        time(text);
    }
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

fn decode(kind: Kind, payload: &[u8]) {
    const FIRST: &[u8] = br#"{"time_series_id":"s","timestamps":[1,2],"columns":{"c":[1,2]}}"#;
    let (mut decoder, mut points) = (NativeDecoder::new(limits()), Points::default());
    decoder.decode(Kind::Points, Some(FIRST), &mut points).expect("a good message");
    let before = (rows(&points), names(&points));
    match decoder.decode(kind, Some(payload), &mut points) {
        Err(rejected) => {
            assert_eq!((rows(&points), names(&points)), before, "a rejected message leaves something in the batch");
            check_rejected(&rejected, payload);
        }
        Ok(message) => {
            check_points(&message, &points, before.0.len());
            let mut strict = NativeDecoder::new(Limits { deny_unknown_fields: true, ..limits() });
            let is_strict = strict.decode(kind, Some(payload), &mut Points::default()).is_ok();
            assert_eq!(is_strict, decoder.take_unknown_fields() == 0, "what is counted is what can be denied");
            // serde does not parse words that only Python writes.
            let has_word = |word: &[u8]| payload.windows(word.len()).any(|window| window == word);
            if !has_word(b"NaN") && !has_word(b"Infinity") {
                // serde limits the nesting to fewer levels.
                let others = serde_json::from_slice::<IgnoredAny>(payload);
                let is_fine = others.as_ref().err().is_none_or(|error| error.to_string().contains("recursion limit"));
                assert!(is_fine, "{others:?}");
            }
            let mut alone = Points::default();
            assert_eq!(NativeDecoder::new(limits()).decode(kind, Some(payload), &mut alone).as_ref(), Ok(&message));
            assert_eq!(rows(&alone), rows(&points)[before.0.len()..]);
        }
    }
}

fn check_rejected(rejected: &Rejected, payload: &[u8]) {
    let detail = &rejected.detail;
    // The database could not store the dead letter.
    assert!(!detail.contains('\0'), "{detail:?}");
    assert!(detail.len() < 600, "{} bytes", detail.len());
    if !payload.is_empty() && payload.len() <= limits().max_bytes {
        let place = detail.rsplit_once("(byte ").and_then(|(_, rest)| rest.strip_suffix(')')?.parse::<usize>().ok());
        assert!(place.is_some_and(|place| place <= payload.len()), "no place: {detail}");
    }
    let is_from_decoding = !matches!(rejected.reason, Reason::UnknownSeries | Reason::RejectedByDatabase);
    assert!(is_from_decoding, "{rejected:?}");
}

fn check_points(message: &Message, points: &Points, before: usize) {
    let limits = limits();
    let is_name = |name: &str| (1..=limits.max_name_bytes).contains(&name.len()) && !name.contains('\0');
    match message {
        Message::PointBatch { points: count } => {
            assert_eq!(before + count, points.len());
            assert!(*count <= limits.max_points);
        }
        Message::SeriesCreate(series) => {
            assert_eq!(before, points.len());
            assert!(is_name(&series.id) && series.value_columns.iter().all(|column| is_name(column)));
            assert!(series.time_column.as_deref().is_none_or(is_name));
            let labels = series.labels.as_deref().map(serde_json::from_str::<BTreeMap<String, serde_json::Value>>);
            let labels = labels.transpose().expect("labels are an object of JSON").unwrap_or_default();
            assert!(labels.len() <= 100 && labels.keys().all(|name| is_name(name)));
            assert!(labels.values().all(|value| value.is_string() || value.is_number() || value.is_boolean()));
            let texts = [series.name.as_ref(), series.description.as_ref()];
            assert!(texts.into_iter().flatten().all(|text| !text.contains('\0')));
        }
        Message::SeriesDelete { id } => {
            assert_eq!(before, points.len());
            assert!(is_name(id));
        }
        Message::Tombstone => panic!("a payload is not a tombstone"),
        Message::Skipped | Message::Empty => panic!("no native message is skipped"),
    }
    for (series, column, time, _) in rows(points) {
        assert!(WINDOW_US.contains(&time) && is_name(&series) && is_name(&column), "{series:?} {column:?} {time}");
    }
}

fn read(times: &str, values: &str) -> Result<(i64, f64), Rejected> {
    let payload = format!(
        r#"{{"time_series_id":"s","timestamp_unit":"us","timestamps":[{times}],"columns":{{"c":[{values}]}}}}"#
    );
    let mut points = Points::default();
    NativeDecoder::new(limits()).decode(Kind::Points, Some(payload.as_bytes()), &mut points)?;
    Ok((points.time_of(0), points.value_of(0)))
}

/// A JSON number as a value and as a time.
fn number(text: &str) {
    // A longer one would make a message too large, and an integer too long for the JSON reader.
    if text.len() > 4000 {
        return;
    }
    let exact: f64 = text.parse().expect("Rust reads what JSON calls a number");
    match read("0", text) {
        Ok((_, value)) => assert_eq!(value.to_bits(), exact.to_bits(), "{text}"),
        Err(rejected) => assert!(exact.is_infinite() && rejected.reason == Reason::Limits, "{text}: {rejected:?}"),
    }
    if let Ok(exact) = text.parse::<i128>() {
        let exact = i64::try_from(exact).ok().filter(|time| WINDOW_US.contains(time));
        match read(text, "0") {
            Ok((time, _)) => assert_eq!(Some(time), exact, "{text}"),
            Err(rejected) => assert!(exact.is_none() && rejected.reason == Reason::TimeWindow, "{text}: {rejected:?}"),
        }
    }
}

/// A text as a time: two readers that both accept it return the same.
fn time(text: &str) {
    let quoted = serde_json::Value::from(text).to_string();
    let Ok((time, _)) = read(&quoted, "0") else { return };
    if let Ok(other) = text.parse::<jiff::Timestamp>() {
        let other_us = other.as_nanosecond().div_euclid(1000);
        assert_eq!(i128::from(time), other_us, "{text}");
    }
}
