//! Any bytes as a message of each format.

use std::sync::{Arc, OnceLock};

use crate::input::{Decoder, InputOptions, Inputs};
use crate::message::{Limits, Message, Points, Rejected};
use crate::raw::{Kind, RawMessage, Source, headers};

/// 1970-01-01 to 2200-01-01.
const WINDOW_US: std::ops::Range<i64> = 0..7_258_118_400_000_000;

/// Inputs, each with a message that it accepts.
pub(super) const INPUTS: [(&str, &str); 16] = [
    ("format = 'influx'", "s,a=b c=1 1"),
    ("format = 'influx'\nunit = 's'\nstrings = 'number'\nbooleans = '0-1'", "s,a=b c=t,d=\"1\" 1"),
    ("format = 'influx'\nunit = 'us'\nstrings = 'reject'\nbooleans = 'reject'", "s c=1 1"),
    ("format = 'telegraf-json'", r#"{"name":"s","tags":{"a":"b"},"fields":{"c":1},"timestamp":1}"#),
    (
        "format = 'telegraf-json'\nunit = 'ns'\nstrings = 'number'\nbooleans = '0-1'\nnested = 'skip'",
        r#"{"metrics":[{"name":"s","tags":{},"fields":{"c":true},"timestamp":1}]}"#,
    ),
    (
        "format = 'prometheus-json'",
        r#"{"timestamp":"2024-01-01T00:00:00Z","value":"1","name":"s","labels":{"__name__":"s","a":"b"}}"#,
    ),
    (
        "format = 'json'\nseries = '{/s}'\ntime = { at = '/t', unit = 'ms' }\nlabels = ['/s', '/a']",
        r#"{"s":"s","a":7,"t":1,"c":1}"#,
    ),
    (
        "format = 'json'\nseries = '{key}'\ntime = 'kafka'\nbooleans = '0-1'\nstrings = 'number'",
        r#"{"c":"1","d":true}"#,
    ),
    (
        "format = 'json'\nseries = 'x{/s}'\ntime = { at = '/t' }\nstrings = 'reject'\nbooleans = 'reject'\nnested = 'skip'",
        r#"{"s":1,"t":1,"c":1}"#,
    ),
    (
        "format = 'json'\neach = '/r'\nseries = '{/s}.{/n/0}'\ntime = { at = '/t', format = '%d.%m.%Y' }\ncolumns = { except = ['/n'], rename = { '/c' = 'd' } }",
        r#"{"s":"s","r":[{"t":"01.01.2024","c":1,"n":["o"]}]}"#,
    ),
    (
        "format = 'json'\neach = ''\nseries = '{topic}-{header:h}'\ntime = { at = '/t', format = 'rfc3339' }\ncolumns = { only = ['/c', '/d/e'] }",
        r#"[{"t":"2024-01-01T00:00:00Z","c":null,"d":{"e":1}}]"#,
    ),
    (
        "format = 'json'\nseries = '{/s}'\ntime = { at = '/t', unit = 's' }\ncolumn = '{/m}.{/n}'\nvalue = '/v'\nlabels = ['/m']",
        r#"{"s":"s","t":"1","m":"c","n":1,"v":null}"#,
    ),
    (
        "format = 'debezium-json'\nseries = '{/source/table}-{/id}'\ntime = { at = '/ts', unit = 'us' }",
        r#"{"payload":{"after":{"id":1,"ts":1,"c":1},"source":{"table":"t"},"op":"c"}}"#,
    ),
    ("format = 'debezium-json'\ntime = 'kafka'\neach = '/rows'", r#"{"after":{"rows":[{"c":1}]},"op":"u"}"#),
    ("format = 'cloudevents'", r#"{"specversion":"1.0","source":"s","time":"2024-01-01T00:00:00Z","data":{"c":1}}"#),
    (
        "format = 'cloudevents'\neach = '/v'\nseries = '{/source}{/subject}'\ntime = { at = '/t' }\nlabels = ['/subject']",
        r#"{"source":"s","subject":"u","data":{"v":[{"t":1,"c":1}]}}"#,
    ),
];

/// The limits of native messages, with a window that begins later.
fn limits() -> Limits {
    Limits { min_us: WINDOW_US.start, ..super::message::limits() }
}

fn compiled() -> &'static [Inputs] {
    static COMPILED: OnceLock<Vec<Inputs>> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let inputs = |keys: &str| {
            let table: toml::Table = format!("name = 'i'\ntopics = ['t']\n{keys}").parse().expect("TOML");
            let options: InputOptions = table.try_into().expect("an input");
            Inputs::compile("", "", &[options]).expect("an input without problems")
        };
        INPUTS.iter().map(|(keys, _)| inputs(keys)).collect()
    })
}

/// The series, the column, the time, and the value's bits; all NaN are equal.
type Row = (String, String, i64, u64);

/// The contents of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
struct Stored {
    rows: Vec<Row>,
    series: Vec<(String, Vec<String>)>,
    labels: Vec<(String, String)>,
}

fn stored(points: &Points) -> Stored {
    let row = |index| {
        let (series, column, time, value) = points.get(index);
        let value = if value.is_nan() { f64::NAN } else { value };
        (series.to_owned(), column.to_owned(), time, value.to_bits())
    };
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    Stored {
        rows: (0..points.len()).map(row).collect(),
        series: points
            .series_columns()
            .into_iter()
            .map(|(series, columns)| (series.to_owned(), owned(columns)))
            .collect(),
        labels: points.series_labels().map(|(series, labels)| (series.to_owned(), labels.to_owned())).collect(),
    }
}

/// Decodes bytes as a message of each format, with many inputs.
///
/// # Panics
/// If a rejected message leaves something in the batch, a detail has no position, points are outside the limits, labels are not
/// JSON, or a message is decoded differently alone than after others.
pub fn inputs(input: &[u8]) {
    let headers = headers::encode([(&b"h"[..], Some(&b"v"[..]))]);
    let event =
        headers::encode([(&b"ce_specversion"[..], Some(&b"1.0"[..])), (b"ce_source", Some(b"s")), (b"h", Some(input))]);
    for (inputs, (_, first)) in compiled().iter().zip(INPUTS) {
        let first = message(Some(b"k"), headers.as_deref(), Some(1), first.as_bytes());
        check(inputs, &first, &message(Some(b"k"), headers.as_deref(), Some(1), input));
        check(inputs, &first, &message(Some(input), event.as_deref(), None, input));
    }
}

fn message<'a>(
    key: Option<&'a [u8]>,
    headers: Option<&'a [u8]>,
    time_ms: Option<i64>,
    payload: &'a [u8],
) -> RawMessage<'a> {
    RawMessage { offset: 0, time_ms, key, payload: Some(payload), headers }
}

fn check(inputs: &Inputs, first: &RawMessage<'_>, message: &RawMessage<'_>) {
    let source = Arc::new(Source {
        kind: Kind::Other,
        cluster_id: String::new(),
        topic: "t".to_owned(),
        topic_id: String::new(),
    });
    let (mut decoder, mut points) = (Decoder::new(limits(), inputs.clone()), Points::default());
    decoder.decode(&source, first, &mut points).expect("a good message");
    let before = stored(&points);
    let result = decoder.decode(&source, message, &mut points);
    let after = stored(&points);
    match &result {
        Err(rejected) => {
            assert_eq!(after, before, "a rejected message leaves something in the batch");
            check_rejected(rejected, message);
        }
        Ok(Message::PointBatch { points: count }) => {
            assert_eq!(before.rows.len() + count, after.rows.len());
            assert!(*count <= limits().max_points);
        }
        Ok(Message::Skipped | Message::Empty) => {
            assert_eq!(after, before, "a skipped message leaves something in the batch");
        }
        Ok(other) => panic!("{other:?}"),
    }
    check_stored(&after);
    let (mut fresh, mut alone) = (Decoder::new(limits(), inputs.clone()), Points::default());
    for (decoder, name) in [(&mut fresh, "alone"), (&mut decoder, "after others")] {
        let mut points = Points::default();
        assert_eq!(decoder.decode(&source, message, &mut points), result, "{name}");
        let found = stored(&points);
        assert_eq!(found.rows, after.rows[before.rows.len()..], "{name}");
        if alone.is_empty() {
            alone = points;
        } else {
            assert_eq!(found, stored(&alone), "{name}");
        }
    }
}

fn check_rejected(rejected: &Rejected, message: &RawMessage<'_>) {
    let detail = &rejected.detail;
    // The database could not store the dead letter.
    assert!(!detail.contains('\0'), "{detail:?}");
    assert!(detail.len() < 4000, "{} bytes", detail.len());
    let payload = message.payload.unwrap_or_default();
    let is_long = [message.key, message.headers, message.payload]
        .into_iter()
        .flatten()
        .any(|bytes| bytes.len() > limits().max_bytes);
    if !payload.is_empty() && !is_long {
        let place = detail.rsplit_once("(byte ").and_then(|(_, rest)| rest.strip_suffix(')')?.parse::<usize>().ok());
        assert!(place.is_some_and(|place| place <= payload.len()), "no place: {detail}");
    }
}

fn check_stored(stored: &Stored) {
    let is_name = |name: &str| (1..=limits().max_name_bytes).contains(&name.len()) && !name.contains('\0');
    for (series, column, time, _) in &stored.rows {
        assert!(WINDOW_US.contains(time) && is_name(series) && is_name(column), "{series:?} {column:?} {time}");
    }
    for (series, columns) in &stored.series {
        assert!(is_name(series) && !columns.is_empty(), "a series without a column: {series:?}");
    }
    for (series, labels) in &stored.labels {
        let labels: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(labels).unwrap_or_else(|error| panic!("{series:?}: {error}: {labels}"));
        assert!(!labels.is_empty() && !format!("{labels:?}").contains("\\0"), "{series:?}: {labels:?}");
    }
}
