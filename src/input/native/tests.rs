use proptest::prelude::*;

use super::Points;
use super::*;
use crate::raw::Kind;
use crate::raw::headers;

const YEAR_1900_US: i64 = -2_208_988_800_000_000;
const YEAR_2200_US: i64 = 7_258_118_400_000_000;
/// 2012-01-01T00:00:00Z.
const START_S: i64 = 1_325_376_000;

fn limits() -> Limits {
    Limits {
        max_bytes: 100_000,
        max_points: 1000,
        max_name_bytes: 100,
        min_us: YEAR_1900_US,
        max_us: YEAR_2200_US,
        deny_unknown_fields: false,
    }
}

type Row = (String, String, i64, f64);

fn rows(points: &Points) -> Vec<Row> {
    (0..points.len())
        .map(|index| {
            let (series, column, time, value) = points.get(index);
            (series.to_owned(), column.to_owned(), time, value)
        })
        .collect()
}

fn decode_bytes(payload: &[u8]) -> Result<(Message, Vec<Row>), Rejected> {
    let mut points = Points::default();
    let message = NativeDecoder::new(limits()).decode(Kind::Points, Some(payload), &mut points);
    if message.is_err() {
        assert!(points.is_empty() && points.series_columns().is_empty(), "a rejected message leaves nothing behind");
    }
    Ok((message?, rows(&points)))
}

fn decode(payload: &str) -> Result<(Message, Vec<Row>), Rejected> {
    decode_bytes(payload.as_bytes())
}

fn points_of(payload: &str) -> Vec<Row> {
    decode(payload).unwrap_or_else(|rejected| panic!("{payload}: {rejected:?}")).1
}

fn series_of(payload: &str) -> SeriesCreate {
    match decode(payload) {
        Ok((Message::SeriesCreate(series), points)) if points.is_empty() => series,
        other => panic!("{payload}: {other:?}"),
    }
}

fn row(column: &str, seconds: i64, value: f64) -> Row {
    ("s".to_owned(), column.to_owned(), seconds * 1_000_000, value)
}

#[test]
fn the_columnar_shape() {
    let points = points_of(
        r#"{"type":"point-batch","time_series_id":"s","timestamps":["2012-01-01","2012-01-02T00:00:00Z",1325548800],
            "columns":{"temp_max":[12.8,null,10.6],"wind":[4.7,NaN,2.3]}}"#,
    );
    let day = |n: i64| START_S + n * 86_400;
    assert_eq!(points.len(), 6);
    assert_eq!(points[0], row("temp_max", day(0), 12.8));
    assert!(points[1].3.is_nan() && points[4].3.is_nan());
    assert_eq!(points[2], row("temp_max", day(2), 10.6));
    assert_eq!(points[3], row("wind", day(0), 4.7));
    assert_eq!(points[5], row("wind", day(2), 2.3));
}

#[test]
fn the_shape_of_rows() {
    let points = points_of(
        r#"{"type":"point-batch","time_series_id":"s","points":[
            {"timestamp":1325376000.5,"column_name":"a","value":12.8},
            {"value":1,"note":{"ignored":[1]},"column_name":"b","timestamp":1325376001}]}"#,
    );
    assert_eq!(points[0], ("s".into(), "a".into(), START_S * 1_000_000 + 500_000, 12.8));
    assert_eq!(points[1], row("b", START_S + 1, 1.0));
}

#[test]
fn all_forms_of_a_timestamp_give_the_same_instant() {
    let us = START_S * 1_000_000 + 123_456;
    for (unit, text) in [
        ("s", "1325376000.123456"),
        ("ms", "1325376000123.456"),
        ("us", "1325376000123456"),
        ("us", "1325376000123456.0"),
        ("s", "1325376000.12345550"),
        ("s", "1325376000.1234561999999999999999999999999999999999999999999"),
        ("s", "1325376000123456e-6"),
        ("s", "1.325376000123456E+9"),
        ("ns", "1325376000123456000"),
        ("ns", "1325376000123456999"),
        ("s", r#""2012-01-01T00:00:00.123456Z""#),
        ("ns", r#""2012-01-01T00:00:00.123456""#),
        ("s", r#""2012-01-01 00:00:00.123456""#),
        ("s", r#""2012-01-01t00:00:00.123456z""#),
        ("s", r#""2012-01-01T01:00:00.123456+01:00""#),
        ("s", r#""2011-12-31T18:30:00.123456-0530""#),
        ("s", r#""2012-01-01T00:00:00.123456789Z""#),
    ] {
        let payload = format!(
            r#"{{"timestamps":[{text}],"columns":{{"c":[1]}},"timestamp_unit":"{unit}","time_series_id":"s"}}"#
        );
        assert_eq!(points_of(&payload)[0].2, us, "{unit} {text}");
    }
    for text in [r#""2012-01-01""#, "1325376000", "1.325376e9", r#""2012-01-01T00:00:00Z""#, r#""2012-01-01T00:00""#] {
        let payload = format!(r#"{{"time_series_id":"s","timestamps":[{text}],"columns":{{"c":[1]}}}}"#);
        assert_eq!(points_of(&payload)[0].2, START_S * 1_000_000, "{text}");
    }
    for (number, us) in
        [("1e-400", 0), ("-0.0000004", 0), ("-0.0000006", -1), ("-0", 0), ("0e999", 0), ("2.5e2", 250_000_000)]
    {
        let payload = format!(r#"{{"time_series_id":"s","timestamps":[{number}],"columns":{{"c":[1]}}}}"#);
        assert_eq!(points_of(&payload)[0].2, us, "{number}");
    }
    let before_the_epoch =
        r#"{"time_series_id":"s","timestamp_unit":"ns","timestamps":[-1,-1000],"columns":{"c":[1,2]}}"#;
    assert_eq!(points_of(before_the_epoch).iter().map(|point| point.2).collect::<Vec<_>>(), [-1, -1]);
}

#[test]
fn all_forms_of_a_value() {
    for (text, expected) in [
        ("1", 1.0),
        ("-0.0", -0.0),
        ("5e-324", 5e-324),
        ("1e-999", 0.0),
        ("9007199254740993", 9_007_199_254_740_992.0),
        ("123456789012345678901234567890", 123_456_789_012_345_680_000_000_000_000.0),
        ("1.7976931348623157e308", f64::MAX),
        ("null", f64::NAN),
        ("NaN", f64::NAN),
        (r#""NaN""#, f64::NAN),
        ("Infinity", f64::INFINITY),
        (r#""Infinity""#, f64::INFINITY),
        ("-Infinity", f64::NEG_INFINITY),
        (r#""-Infinity""#, f64::NEG_INFINITY),
    ] {
        for payload in [
            format!(r#"{{"time_series_id":"s","timestamps":[0],"columns":{{"c":[{text}]}}}}"#),
            format!(r#"{{"time_series_id":"s","points":[{{"timestamp":0,"column_name":"c","value":{text}}}]}}"#),
        ] {
            let value = points_of(&payload)[0].3;
            assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(), "{text}: {value}");
        }
    }
}

#[test]
fn a_series_is_defined() {
    let series = series_of(
        r#"{"type":"series-create","id":"seattle-weather","name":"Seattle weather","description":"NOAA daily",
            "time_column":"date","value_columns":["precipitation","temp_max"]}"#,
    );
    assert_eq!(series.name.as_deref(), Some("Seattle weather"));
    assert_eq!(series.description.as_deref(), Some("NOAA daily"));
    assert_eq!(series.time_column.as_deref(), Some("date"));
    assert_eq!(series.value_columns, ["precipitation", "temp_max"]);
    let least = series_of(r#"{"type":"series-create","id":"Zürich \u00e9","description":null,"value_columns":null}"#);
    assert_eq!((least.id.as_str(), least.name, least.description), ("Zürich é", None, None));
    assert_eq!((series.labels, least.labels), (None, None));
    for (labels, expected) in [("null", "{}"), ("{}", "{}"), (r#"{"b" : true,"a":1.0}"#, r#"{"a":1.0,"b":true}"#)] {
        let series = series_of(&format!(r#"{{"type":"series-create","id":"s","labels":{labels}}}"#));
        assert_eq!(series.labels.as_deref(), Some(expected));
    }
}

#[test]
fn the_topic_says_what_the_message_does_not() {
    let mut points = Points::default();
    let mut decoder = NativeDecoder::new(limits());
    let series = decoder.decode(Kind::Series, Some(br#"{"id":"s"}"#), &mut points);
    assert!(matches!(series, Ok(Message::SeriesCreate(_))));
    let batch = br#"{"type":"point-batch","time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#;
    assert_eq!(decoder.decode(Kind::Series, Some(batch), &mut points), Ok(Message::PointBatch { points: 1 }));
    assert_eq!(decoder.decode(Kind::Points, None, &mut points), Ok(Message::Tombstone));
}

#[test]
fn an_empty_batch_has_no_points() {
    assert!(points_of(r#"{"time_series_id":"s","points":[]}"#).is_empty());
    assert!(points_of(r#"{"time_series_id":"s","timestamps":[],"columns":{"a":[],"b":[]}}"#).is_empty());
    assert!(points_of(r#"{"time_series_id":"s","timestamps":[1,2],"columns":{}}"#).is_empty());
}

#[test]
fn rejected_messages_have_their_reason_and_place() {
    let long = "x".repeat(101);
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let many = format!(r#"{{"time_series_id":"s","timestamps":[{}0],"columns":{{}}}}"#, "0,".repeat(1000));
    let many_rows = format!(
        r#"{{"time_series_id":"s","points":[{}]}}"#,
        vec![r#"{"timestamp":0,"column_name":"c","value":1}"#; 1001].join(",")
    );
    let wide: Vec<String> = (0..101).map(|n| format!(r#""c{n}":[{}]"#, ["1"; 10].join(","))).collect();
    let wide =
        format!(r#"{{"time_series_id":"s","timestamps":[{}],"columns":{{{}}}}}"#, ["0"; 10].join(","), wide.join(","));
    let large = format!(r#"{{"note":"{}"}}"#, "x".repeat(100_000));
    let batch =
        |times: &str, columns: &str| format!(r#"{{"time_series_id":"s","timestamps":{times},"columns":{columns}}}"#);
    let cases: Vec<(String, Reason, &str)> = vec![
        (String::new(), Reason::Empty, "empty"),
        ("{".into(), Reason::Syntax, "(byte 1)"),
        ("\u{feff}{}".into(), Reason::Syntax, "byte order mark"),
        (
            r#"{"time_series_id":"s","points":[]} x"#.into(),
            Reason::Syntax,
            "trailing characters: expected nothing after the JSON value (byte 35)",
        ),
        (r#"{"time_series_id":"s","points":[],}"#.into(), Reason::Syntax, "trailing comma"),
        (r#"{'time_series_id':'s'}"#.into(), Reason::Syntax, "byte 1"),
        ("[]".into(), Reason::Schema, "expected an object, found an array (byte 0)"),
        ("null".into(), Reason::Schema, "found null"),
        ("3".into(), Reason::Schema, "found a number"),
        ("{}".into(), Reason::Schema, "expected time_series_id, which is missing"),
        (deep, Reason::Limits, "nesting"),
        (large, Reason::TooLarge, "100011 bytes"),
        (many, Reason::TooLarge, "timestamps: the message has more than the 1000 points"),
        (many_rows, Reason::TooLarge, "points: the message has more than the 1000 points"),
        (wide, Reason::TooLarge, "columns: the message has more than the 1000 points"),
        (r#"{"type":"point_batch"}"#.into(), Reason::UnknownType, "type: expected"),
        (r#"{"type":7}"#.into(), Reason::Schema, "type: expected a string, found a number"),
        (r#"{"type":"series-create"}"#.into(), Reason::Schema, "expected id"),
        (format!(r#"{{"type":"series-create","id":"{long}"}}"#), Reason::Limits, "id: the name has 101 bytes"),
        (r#"{"type":"series-create","id":""}"#.into(), Reason::Schema, "id: expected a name"),
        (r#"{"type":"series-create","id":"a\u0000b"}"#.into(), Reason::Encoding, "U+0000"),
        (
            r#"{"type":"series-create","id":"a","value_columns":["x","x"]}"#.into(),
            Reason::Schema,
            "value_columns[1]: the column is named twice",
        ),
        (
            r#"{"type":"series-create","id":"a","value_columns":"x"}"#.into(),
            Reason::Schema,
            "value_columns: expected an array, found a string",
        ),
        (
            format!(r#"{{"type":"series-create","id":"a","time_column":"{long}"}}"#),
            Reason::Limits,
            "time_column: the name",
        ),
        (
            r#"{"time_series_id":7,"points":[]}"#.into(),
            Reason::Schema,
            "time_series_id: expected a string, found a number",
        ),
        (r#"{"time_series_id":"\ud800","points":[]}"#.into(), Reason::Syntax, "hex escape"),
        (
            r#"{"time_series_id":"s","time_series_id":"t","points":[]}"#.into(),
            Reason::Schema,
            "time_series_id: the field is a duplicate",
        ),
        (r#"{"time_series_id":"s"}"#.into(), Reason::Schema, "expected timestamps and columns, or points"),
        (r#"{"time_series_id":"s","timestamps":[]}"#.into(), Reason::Schema, "expected columns, which is missing"),
        (r#"{"time_series_id":"s","columns":{}}"#.into(), Reason::Schema, "expected timestamps, which is missing"),
        (r#"{"time_series_id":"s","points":[],"columns":{}}"#.into(), Reason::Schema, "not both"),
        (r#"{"time_series_id":"s","points":{}}"#.into(), Reason::Schema, "points: expected an array, found an object"),
        (
            r#"{"time_series_id":"s","points":[7]}"#.into(),
            Reason::Schema,
            "points[0]: expected an object, found a number",
        ),
        (
            r#"{"time_series_id":"s","points":[{"timestamp":0,"value":1}]}"#.into(),
            Reason::Schema,
            "points[0]: expected column_name, which is missing",
        ),
        (
            r#"{"time_series_id":"s","points":[{"column_name":"c","value":1}]}"#.into(),
            Reason::Schema,
            "expected timestamp,",
        ),
        (
            r#"{"time_series_id":"s","points":[{"timestamp":0,"column_name":"c"}]}"#.into(),
            Reason::Schema,
            "expected value,",
        ),
        (
            r#"{"time_series_id":"s","points":[{"timestamp":0,"column_name":"c","value":1,"value":2}]}"#.into(),
            Reason::Schema,
            "points[0].value: the field is a duplicate",
        ),
        (
            r#"{"time_series_id":"s","points":[{"timestamp":0,"column_name":null,"value":1}]}"#.into(),
            Reason::Schema,
            "points[0].column_name: expected a string, found null",
        ),
        (batch("[0]", r#"{"c":[1],"c":[1]}"#), Reason::Schema, "columns.c: the column is a duplicate"),
        (batch("[0]", r#"{"":[1]}"#), Reason::Schema, "columns: expected a name"),
        (batch("[0]", &format!(r#"{{"{long}":[1]}}"#)), Reason::Limits, "columns: the name has 101 bytes"),
        (batch("[0]", r#"{"a\u0000":[1]}"#), Reason::Encoding, "columns: PostgreSQL"),
        (batch("[0]", r#"{"c":[]}"#), Reason::Schema, "columns.c: 0 values for 1 timestamps"),
        (batch("[0]", r#"{"c":[1,2]}"#), Reason::Schema, "columns.c: more values than the 1 timestamps"),
        (batch("[0]", r#"{"c":[true]}"#), Reason::Schema, "columns.c[0]: expected a number, null"),
        (batch("[0]", r#"{"c":["1.5"]}"#), Reason::Schema, "found a number in quotes"),
        (batch("[0,0]", r#"{"c":[1,1e999]}"#), Reason::Limits, "columns.c[1]: the number is beyond the range"),
        (batch("[0]", r#"{"c":[01]}"#), Reason::Syntax, "invalid number"),
        (batch("[0]", r#"{"c":[1.]}"#), Reason::Syntax, "invalid number"),
        (batch("[0]", r#"{"c":[.5]}"#), Reason::Syntax, "expected"),
        (batch("[0]", r#"{"c":[nan]}"#), Reason::Syntax, "expected"),
        (batch("7", "{}"), Reason::Schema, "timestamps: expected an array, found a number"),
        (batch("[null]", "{}"), Reason::Schema, "timestamps[0]: expected a timestamp"),
        (batch("[NaN]", "{}"), Reason::Schema, "not finite"),
        (batch("[-Infinity]", "{}"), Reason::Schema, "not finite"),
        (batch("[1e30]", "{}"), Reason::TimeWindow, "timestamp_unit"),
        (batch("[1e99999999999]", "{}"), Reason::TimeWindow, "timestamp_unit"),
        (
            batch("[1325376000000]", "{}"),
            Reason::TimeWindow,
            "timestamps[0]: the timestamp, as a number of the unit \"s\"",
        ),
        (batch("[9223372036854775807]", "{}"), Reason::TimeWindow, "timestamp_unit"),
        (batch("[92233720368547758070000]", "{}"), Reason::TimeWindow, "timestamp_unit"),
        (batch(r#"["2200-01-01"]"#, "{}"), Reason::TimeWindow, "outside the accepted window"),
        (batch(r#"["1899-12-31T23:59:59Z"]"#, "{}"), Reason::TimeWindow, "outside the accepted window"),
        (batch(r#"["2012-13-01"]"#, "{}"), Reason::Schema, "timestamps[0]: expected a timestamp"),
        (batch(r#"["2012-02-30T00:00:00Z"]"#, "{}"), Reason::Schema, "day"),
        (batch(r#"["1325376000"]"#, "{}"), Reason::Schema, "expected a timestamp"),
        (batch(r#"["yesterday"]"#, "{}"), Reason::Schema, "expected a timestamp"),
        (batch(r#"[""]"#, "{}"), Reason::Schema, "expected a timestamp"),
        (
            r#"{"time_series_id":"s","timestamp_unit":"min","points":[]}"#.into(),
            Reason::Schema,
            "timestamp_unit: expected",
        ),
    ];
    for (payload, reason, detail) in cases {
        let shown: String = payload.chars().take(120).collect();
        match decode(&payload) {
            Ok(decoded) => panic!("{shown}: accepted as {decoded:?}"),
            Err(rejected) => {
                assert_eq!(rejected.reason, reason, "{shown}: {}", rejected.detail);
                assert!(rejected.detail.contains(detail), "{shown}: {}", rejected.detail);
            }
        }
    }
    let rejected = decode_bytes(b"{\"time_series_id\":\"\xff\",\"points\":[]}").unwrap_err();
    assert_eq!((rejected.reason, rejected.detail.as_str()), (Reason::Encoding, "the payload is not UTF-8 (byte 19)"));
}

#[test]
fn fields_that_mean_nothing_are_counted_or_denied() {
    let batch =
        r#"{"time_series_id":"s","unit":"C","points":[{"timestamp":0,"column_name":"c","value":1,"n":0}],"":0}"#;
    for (payload, count, denied) in [
        (batch, 3, r#"the field "unit" is unknown, and message.deny_unknown_fields allows none (byte 22)"#),
        (&batch.replace(r#""unit":"C","#, "").replace(r#","":0"#, ""), 1, r#"points[0]: the field "n" is unknown"#),
        (r#"{"type":"series-create","id":"s","unit":"C"}"#, 1, r#"the field "unit" is unknown"#),
        (r#"{"type":"series-create","id":"s","\u0000":0}"#, 1, r#"the field "\0" is unknown"#),
        (r#"{"type":"series-create","id":"s","name":"S"}"#, 0, ""),
    ] {
        let mut decoder = NativeDecoder::new(limits());
        decoder.decode(Kind::Points, Some(payload.as_bytes()), &mut Points::default()).unwrap();
        assert_eq!((decoder.take_unknown_fields(), decoder.take_unknown_fields()), (count, 0), "{payload}");
        let mut strict = NativeDecoder::new(Limits { deny_unknown_fields: true, ..limits() });
        let mut points = Points::default();
        match strict.decode(Kind::Points, Some(payload.as_bytes()), &mut points) {
            Ok(_) => assert_eq!(count, 0, "{payload}"),
            Err(rejected) => {
                assert_eq!(rejected.reason, Reason::Schema, "{payload}");
                assert!(rejected.detail.contains(denied) && count > 0, "{}", rejected.detail);
                assert!(points.series_columns().is_empty(), "{payload}");
            }
        }
    }
    let long = format!(r#"{{"id":"s","{}":0}}"#, "x".repeat(50_000));
    let mut strict = NativeDecoder::new(Limits { deny_unknown_fields: true, ..limits() });
    let rejected = strict.decode(Kind::Series, Some(long.as_bytes()), &mut Points::default()).unwrap_err();
    assert!(rejected.detail.len() < 200, "the field's name is cut");
}

#[test]
fn key_and_headers_have_limits_and_a_version() {
    let decoder = NativeDecoder::new(limits());
    let of = |headers: &[(&str, Option<&[u8]>)]| {
        headers::encode(headers.iter().map(|(name, value)| (name.as_bytes(), *value)))
    };
    for good in [
        of(&[]),
        of(&[(VERSION_HEADER, Some(b"1"))]),
        of(&[("another", Some(b"2")), ("", None), (VERSION_HEADER, Some(b"1")), (VERSION_HEADER, Some(b"1"))]),
        Some(b"no headers at all".to_vec()),
    ] {
        assert_eq!(decoder.check_envelope(Some(b"key"), good.as_deref()), Ok(()), "{good:?}");
    }
    for (headers, found) in [
        (of(&[(VERSION_HEADER, Some(b"2"))]), r#""2""#),
        (of(&[(VERSION_HEADER, Some(b"1")), (VERSION_HEADER, Some(b"\0\xff"))]), "\"\\0\u{fffd}\""),
        (of(&[("another", None), (VERSION_HEADER, None)]), "no value"),
    ] {
        let rejected = decoder.check_envelope(None, headers.as_deref()).unwrap_err();
        let detail = format!("header series-ingest-version: expected \"1\", found {found}");
        assert_eq!((rejected.reason, rejected.detail), (Reason::Schema, detail));
    }
    let rejected = decoder.check_envelope(None, Some(&headers::UNREADABLE)).unwrap_err();
    assert_eq!(rejected.reason, Reason::Limits);
    let long = vec![b'x'; 100_001];
    for (key, headers, what) in [(Some(&long), None, "key has"), (None, Some(&long), "headers have")] {
        let rejected = decoder.check_envelope(key.map(Vec::as_slice), headers.map(Vec::as_slice)).unwrap_err();
        let detail = format!("the {what} 100001 bytes, more than the 100000 allowed");
        assert_eq!((rejected.reason, rejected.detail), (Reason::TooLarge, detail));
    }
}

#[test]
fn points_of_a_series_that_is_to_be_rejected() {
    let mut decoder = NativeDecoder::new(limits());
    decoder.reject_series(["s".to_owned()]);
    let mut points = Points::default();
    let payload = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#;
    let rejected = decoder.decode(Kind::Points, Some(payload), &mut points).unwrap_err();
    assert_eq!(rejected.reason, Reason::UnknownSeries);
    decoder.reject_series([]);
    assert_eq!(decoder.decode(Kind::Points, Some(payload), &mut points), Ok(Message::PointBatch { points: 1 }));
}

fn name() -> impl Strategy<Value = String> {
    // Anything that JSON can express and PostgreSQL can store.
    "[^\u{0}]{1,20}"
}

fn value() -> impl Strategy<Value = f64> {
    any::<f64>()
}

/// A value as a producer may write it; one that is not finite, in one of its forms.
fn write_value(value: f64, as_word: bool) -> String {
    let word = |word: &str| if as_word { format!("\"{word}\"") } else { word.to_owned() };
    if value.is_nan() {
        if as_word { "null".to_owned() } else { "NaN".to_owned() }
    } else if value.is_infinite() {
        word(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        serde_json::to_string(&value).unwrap()
    }
}

fn write_time(us: i64, form: u8) -> (String, &'static str) {
    match form % 4 {
        0 => (us.to_string(), "us"),
        1 => (
            us.checked_mul(1000).map_or_else(|| us.to_string(), |ns| ns.to_string()),
            if us.checked_mul(1000).is_some() { "ns" } else { "us" },
        ),
        2 => (format!("{:?}", jiff::Timestamp::from_microsecond(us).unwrap().to_string()), "s"),
        _ => (format!("{}{}.{:06}", if us < 0 { "-" } else { "" }, us.abs() / 1_000_000, us.abs() % 1_000_000), "s"),
    }
}

fn same(a: &[Row], b: &[Row]) -> bool {
    let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (&a.0, &a.1, a.2, bits(a.3)) == (&b.0, &b.1, b.2, bits(b.3)))
}

proptest! {
    #[test]
    fn what_is_written_in_columns_decodes_to_itself(
        series in name(),
        columns in prop::collection::hash_map(name(), prop::collection::vec((value(), any::<bool>()), 8), 0..5),
        times in prop::collection::vec(YEAR_1900_US..YEAR_2200_US, 8),
        form in any::<u8>(),
    ) {
        let times_text: Vec<(String, &str)> = times.iter().map(|us| write_time(*us, form)).collect();
        // One unit per message: if nanoseconds do not fit, microseconds are written.
        let unit = if times_text.iter().any(|(_, unit)| *unit == "us") { "us" } else { times_text[0].1 };
        let times_text: Vec<String> = if unit == "us" {
            times.iter().map(ToString::to_string).collect()
        } else {
            times_text.into_iter().map(|(text, _)| text).collect()
        };
        let mut expected = Vec::new();
        let mut columns_text = Vec::new();
        for (column, values) in &columns {
            let values_text: Vec<String> = values.iter().map(|(value, as_word)| write_value(*value, *as_word)).collect();
            columns_text.push(format!("{}:[{}]", serde_json::to_string(column).unwrap(), values_text.join(",")));
            expected.extend(times.iter().zip(values).map(|(time, (value, _))| (series.clone(), column.clone(), *time, *value)));
        }
        let payload = format!(
            r#"{{"columns":{{{}}},"timestamps":[{}],"timestamp_unit":"{unit}","time_series_id":{}}}"#,
            columns_text.join(","), times_text.join(","), serde_json::to_string(&series).unwrap(),
        );
        let (_, decoded) = decode(&payload).map_err(|rejected| TestCaseError::fail(format!("{payload}: {rejected:?}")))?;
        prop_assert!(same(&decoded, &expected), "{payload}: {decoded:?}");
    }

    #[test]
    fn what_is_written_in_rows_decodes_to_itself(
        rows in prop::collection::vec((name(), value(), any::<bool>(), YEAR_1900_US..YEAR_2200_US), 0..20)
    ) {
        let text: Vec<String> = rows.iter().map(|(column, value, as_word, time)| format!(
            r#"{{"timestamp":{time},"column_name":{},"value":{}}}"#,
            serde_json::to_string(column).unwrap(), write_value(*value, *as_word),
        )).collect();
        let payload = format!(r#"{{"time_series_id":"s","timestamp_unit":"us","points":[{}]}}"#, text.join(","));
        let expected: Vec<Row> = rows.iter().map(|(column, value, _, time)| ("s".to_owned(), column.clone(), *time, *value)).collect();
        let (_, decoded) = decode(&payload).map_err(|rejected| TestCaseError::fail(format!("{payload}: {rejected:?}")))?;
        prop_assert!(same(&decoded, &expected), "{payload}: {decoded:?}");
    }
}

#[test]
fn a_series_is_deleted() {
    let decode = |payload: &str| {
        NativeDecoder::new(limits()).decode(Kind::Series, Some(payload.as_bytes()), &mut Points::default())
    };
    let id = |id: &str| Ok(Message::SeriesDelete { id: id.to_owned() });
    assert_eq!(decode(r#"{"type":"series-delete","id":"s\n\"é"}"#), id("s\n\"é"));
    assert_eq!(decode(r#"{"id":"s","reason":"unknown fields are skipped","type":"series-delete"}"#), id("s"));
    for (payload, detail) in [
        (r#"{"type":"series-delete"}"#, "expected id, which is missing (byte 23)"),
        (r#"{"type":"series-delete","id":""}"#, "id: "),
        (r#"{"type":"series-delete","id":1}"#, "id: "),
    ] {
        let rejected = decode(payload).unwrap_err();
        assert!(rejected.detail.starts_with(detail), "{rejected:?}");
    }
}
