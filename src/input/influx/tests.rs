//! Lines of each kind, and their rows.

use std::sync::Arc;

use crate::input::{Decoder, InputOptions, Inputs};
use crate::message::{Limits, Message, Points};
use crate::raw::{Kind, RawMessage, Source};

/// 2024-01-02T03:04:05Z.
const T_US: i64 = 1_704_164_645_000_000;
const T: &str = "1704164645000000000";

fn decoder(more: &str) -> Decoder {
    let toml = format!("name = \"i\"\ntopics = [\"t\"]\nformat = \"influx\"\n{more}");
    let options: InputOptions = toml.parse::<toml::Table>().unwrap().try_into().unwrap();
    let limits = Limits {
        max_bytes: 100_000,
        max_points: 20,
        max_name_bytes: 100,
        min_us: 0,
        max_us: 7_258_118_400_000_000,
        deny_unknown_fields: false,
    };
    Decoder::new(limits, Inputs::compile("", "", &[options]).unwrap())
}

fn decode(decoder: &mut Decoder, time_ms: Option<i64>, payload: &[u8], points: &mut Points) -> Result<Message, String> {
    let source = Arc::new(Source {
        kind: Kind::Other,
        cluster_id: String::new(),
        topic: "t".to_owned(),
        topic_id: String::new(),
    });
    let message = RawMessage { time_ms, payload: Some(payload), ..RawMessage::default() };
    decoder
        .decode(&source, &message, points)
        .map_err(|rejected| format!("{}: {}", rejected.reason.as_str(), rejected.detail))
}

/// Points as `series column seconds-after-T value`.
fn rows_of(points: &Points) -> Vec<String> {
    let row = |index| {
        let (series, column, time, value) = points.get(index);
        format!("{series} {column} {} {value}", (time - T_US) as f64 / 1e6)
    };
    (0..points.len()).map(row).collect()
}

/// The result of decoding a message; its time in Kafka is seven seconds after T.
fn decoded(more: &str, payload: &str) -> Result<Vec<String>, String> {
    let mut points = Points::default();
    let result = decode(&mut decoder(more), Some(T_US / 1000 + 7000), payload.as_bytes(), &mut points);
    if result.is_err() {
        assert!(points.is_empty() && points.series_columns().is_empty(), "a rejected message leaves nothing behind");
    }
    result.map(|_| rows_of(&points))
}

fn rows(payload: &str) -> Vec<String> {
    decoded("", payload).unwrap_or_else(|why| panic!("{payload}: {why}"))
}

fn why(payload: &str) -> String {
    decoded("", payload).expect_err(payload)
}

#[test]
fn a_line_has_a_series_and_a_point_for_each_field() {
    for (line, expected) in [
        ("cpu idle=1", &["cpu idle 7 1"][..]),
        ("cpu idle=1\n", &["cpu idle 7 1"]),
        (
            "cpu,region=eu,host=a idle=1.5,user=2i T",
            &["cpu,host=a,region=eu idle 0 1.5", "cpu,host=a,region=eu user 0 2"],
        ),
        ("  cpu   idle=1   T  \r\n\r\n\t\n # c\n#\r\nmem free=2 T\r\n", &["cpu idle 0 1", "mem free 0 2"]),
        ("cpu idle=1 T\r", &["cpu idle 0 1"]),
        ("cpu a=1 T\ncpu a=2 T\ncpu a=3 T", &["cpu a 0 1", "cpu a 0 2", "cpu a 0 3"]),
        ("temp,ort=Köln °C=-3 T", &["temp,ort=Köln °C 0 -3"]),
        ("\"a b\" v=1 T", &[]),
        ("a\"b,c\"d=e\"f g\"h=1 T", &["a\"b,c\"d=e\"f g\"h 0 1"]),
        ("a=b v=1 T", &["a=b v 0 1"]),
        ("a,#b=c #d=1 T", &["a,#b=c #d 0 1"]),
    ] {
        let line = line.replace('T', T);
        match decoded("", &line) {
            Ok(rows) => assert_eq!(rows, expected, "{line}"),
            Err(why) => assert!(expected.is_empty(), "{line}: {why}"),
        }
    }
}

#[test]
fn escapes_are_read_and_written_as_all_formats_of_metrics_have_them() {
    for (line, expected) in [
        (r"a\ b\,c v=1", r"a\ b\,c v 7 1"),
        // In a measurement an equals sign is plain text, so the backslash before it is, too.
        (r"a\=b v=1", r"a\=b v 7 1"),
        (r"a,b\ c\,d\=e=f\ g\,h\=i v=1", r"a,b\ c\,d\=e=f\ g\,h\=i v 7 1"),
        (r"a b\ c\,d\=e=1", "a b c,d=e 7 1"),
        // A backslash before any other character is plain text.
        (r"a\b\\c,d\e=f\\g h\i=1", r"a\b\\c,d\e=f\\g h\i 7 1"),
        // In the id, one before an escape has another one before it.
        (r"a\\ b,c=d\\\ e v=1", r"a\\\ b,c=d\\\\\ e v 7 1"),
        (r#"a,b=\" v=1"#, r#"a,b=\" v 7 1"#),
    ] {
        assert_eq!(rows(line), [expected], "{line}");
    }
    // Sorted by their names without escapes, in bytes.
    assert_eq!(rows(r"m,b=1,a\,=2,a=3,B=4,é=5 v=1"), [r"m,B=4,a=3,a\,=2,b=1,é=5 v 7 1"]);
}

#[test]
fn numbers_of_all_kinds_are_values() {
    for (text, value) in [
        ("1", 1.0),
        ("-1", -1.0),
        ("+1", 1.0),
        ("0", 0.0),
        ("-0", -0.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("00.5", 0.5),
        ("1e3", 1000.0),
        ("1E+3", 1000.0),
        ("-1.5e-3", -0.0015),
        ("1.7976931348623157e308", f64::MAX),
        ("4.9e-324", 5e-324),
        ("1e-400", 0.0),
        ("0.1", 0.1),
        ("9007199254740993", 9_007_199_254_740_992.0),
        ("1i", 1.0),
        ("-1i", -1.0),
        ("+1i", 1.0),
        ("-0i", 0.0),
        ("007i", 7.0),
        ("9223372036854775807i", 9_223_372_036_854_775_807.0),
        ("-9223372036854775808i", -9_223_372_036_854_775_808.0),
        ("9007199254740993i", 9_007_199_254_740_992.0),
        ("0u", 0.0),
        ("18446744073709551615u", 18_446_744_073_709_551_615.0),
    ] {
        let mut points = Points::default();
        decode(&mut decoder(""), Some(0), format!("m v={text}").as_bytes(), &mut points).unwrap();
        assert_eq!(points.value_of(0).to_bits(), value.to_bits(), "{text}");
    }
}

#[test]
fn booleans_and_strings_are_what_the_input_says() {
    for word in ["t", "T", "true", "True", "TRUE"] {
        assert_eq!(decoded("booleans = \"0-1\"", &format!("m v={word},w=2")).unwrap(), ["m v 7 1", "m w 7 2"]);
    }
    for word in ["f", "F", "false", "False", "FALSE"] {
        assert_eq!(decoded("booleans = \"0-1\"", &format!("m v={word}")).unwrap(), ["m v 7 0"]);
    }
    assert_eq!(rows("m v=true,w=2,x=f"), ["m w 7 2"]);
    assert_eq!(
        decoded("booleans = \"reject\"", "m w=2,v=t").unwrap_err(),
        "schema: line 1: expected a number, found a boolean, and booleans = \"reject\" (byte 8)"
    );
    let number = |text: &str| decoded("strings = \"number\"", &format!("m v={text},w=2 {T}"));
    assert_eq!(number("\"12.5\"").unwrap(), ["m v 0 12.5", "m w 0 2"]);
    assert_eq!(number("\"-1e3\"").unwrap()[0], "m v 0 -1000");
    assert_eq!(number("\"NaN\"").unwrap()[0], "m v 0 NaN");
    assert_eq!(
        number("\"high\"").unwrap_err(),
        "schema: line 1: expected a number in the string, and strings = \"number\" (byte 4)"
    );
    assert_eq!(
        decoded("strings = \"reject\"", "m v=\"1\"").unwrap_err(),
        "schema: line 1: expected a number, found a string, and strings = \"reject\" (byte 4)"
    );
    // A string may contain anything.
    for text in
        [r#""""#, r#""a b,c=d""#, "\"a\nb\r\nc\"", r#""a\"b""#, r#""a\\""#, r#""\\\"""#, r#""a\b""#, "\"#\"", "\"é\""]
    {
        assert_eq!(rows(&format!("m v={text},w=2 {T}\nn x=3 {T}")), ["m w 0 2", "n x 0 3"], "{text}");
    }
    assert_eq!(rows(r#"m v="a" 1"#), [""; 0]);
}

#[test]
fn a_message_whose_values_are_all_skipped_is_skipped() {
    for payload in ["m v=\"x\"", "m v=\"x\",w=true 1\nn v=f", "# c\nm v=\"x\" 1"] {
        let mut points = Points::default();
        assert_eq!(
            decode(&mut decoder(""), Some(0), payload.as_bytes(), &mut points),
            Ok(Message::Skipped),
            "{payload}"
        );
        assert!(points.is_empty() && points.series_columns().is_empty());
    }
    assert!(why("m v=\"x\" 99999999999999999999999").starts_with("time_window: line 1: the timestamp"));
    // A line with nothing else has no series.
    let mut points = Points::default();
    decode(&mut decoder(""), Some(0), b"m v=\"x\"\nn w=1", &mut points).unwrap();
    assert_eq!(points.series_columns(), [("n", vec!["w"])]);
}

#[test]
fn times_are_of_the_unit_or_of_the_message() {
    for (unit, time, seconds) in [
        ("ns", "1704164645000000000", "0"),
        ("ns", "1704164645000001999", "0.000001"),
        ("us", "1704164645500000", "0.5"),
        ("ms", "1704164645500", "0.5"),
        ("s", "1704164646", "1"),
        ("s", "0", "-1704164645"),
        ("ns", "0001704164645000000000", "0"),
    ] {
        let found = decoded(&format!("unit = \"{unit}\""), &format!("m v=1 {time}")).unwrap();
        assert_eq!(found, [format!("m v {seconds} 1")], "{unit} {time}");
    }
    assert_eq!(rows(&format!("m v=1\nm v=2 {T}")), ["m v 7 1", "m v 0 2"]);
    let without = decode(&mut decoder(""), None, b"m v=1", &mut Points::default());
    assert_eq!(
        without.unwrap_err(),
        "schema: line 1: expected a time of the message in Kafka, which has none (byte 0)"
    );
    for (unit, time) in
        [("ns", "-1"), ("s", "1704164645000"), ("ms", "-9223372036854775809"), ("ns", "99999999999999999999")]
    {
        let found = decoded(&format!("unit = \"{unit}\""), &format!("# c\nm v=1 {time}")).unwrap_err();
        assert!(found.starts_with("time_window: line 2: the timestamp, as a number of the unit \""), "{found}");
        assert!(found.ends_with("is unit right? (byte 10)"), "{found}");
    }
}

#[test]
fn the_tags_are_the_labels() {
    let labels = |payload: &str, points: &mut Points| {
        decode(&mut decoder(""), Some(0), payload.as_bytes(), points).unwrap();
        points.series_labels().map(|(series, labels)| format!("{series} {labels}")).collect::<Vec<_>>()
    };
    let mut points = Points::default();
    let expected = [r#"m,a\ b=c\,d,e=" {"a b":"c,d","e":"\""}"#];
    assert_eq!(labels("m,e=\",a\\ b=c\\,d v=1\nn v=2", &mut points), expected);
    assert_eq!(labels("m,a\\ b=c\\,d,e=\" v=1", &mut points), expected, "they are set once");
}

#[test]
fn what_is_not_line_protocol_is_rejected_with_its_line_and_byte() {
    let number = "expected a number, an integer such as 1i or 1u, a boolean, or a string in double quotes";
    for (payload, expected) in [
        ("", "empty: the payload is empty: expected line protocol".to_owned()),
        ("\u{feff}m v=1", "syntax: a byte order mark stands before the line protocol (byte 0)".to_owned()),
        ("# c\n\n", "schema: line 3: expected a line, found none besides comments and spaces (byte 5)".to_owned()),
        ("m v=1\n,a=b v=1", "syntax: line 2: expected a measurement, found ',' (byte 6)".to_owned()),
        ("m", "syntax: line 1: expected a space and a field after the measurement and its tags, found the end of the payload (byte 1)".to_owned()),
        ("m\nn v=1", "syntax: line 1: expected a space and a field after the measurement and its tags, found the end of the line (byte 1)".to_owned()),
        ("m\\\nn v=1", "syntax: line 1: expected a space and a field after the measurement and its tags, found the end of the line (byte 2)".to_owned()),
        ("m,a=b", "syntax: line 1: expected a space and a field after the measurement and its tags, found the end of the payload (byte 5)".to_owned()),
        ("m,a=b ", "syntax: line 1: expected the key of a field, found the end of the payload (byte 6)".to_owned()),
        ("m, v=1", "syntax: line 1: expected the key of a tag, found a space (byte 2)".to_owned()),
        ("m,=b v=1", "syntax: line 1: expected the key of a tag, found '=' (byte 2)".to_owned()),
        ("m,a v=1", "syntax: line 1: expected an equals sign and the value of the tag, found a space (byte 3)".to_owned()),
        ("m,a,b=c v=1", "syntax: line 1: expected an equals sign and the value of the tag, found ',' (byte 3)".to_owned()),
        ("m,a= v=1", "syntax: line 1: expected the value of the tag, found a space (byte 4)".to_owned()),
        ("m,a=,b=c v=1", "syntax: line 1: expected the value of the tag, found ',' (byte 4)".to_owned()),
        ("m,a=b=c v=1", "syntax: line 1: expected a backslash before an equals sign in the value of a tag (byte 5)".to_owned()),
        ("m,a=b,a=c v=1", "schema: line 1: the tag is a duplicate (byte 6)".to_owned()),
        ("m,b=1,a=b,c=d,b=1 v=1", "schema: line 1: the tag is a duplicate (byte 14)".to_owned()),
        ("m v", "syntax: line 1: expected an equals sign and the value of the field, found the end of the payload (byte 3)".to_owned()),
        ("m =1", "syntax: line 1: expected the key of a field, found '=' (byte 2)".to_owned()),
        ("m v=1,", "syntax: line 1: expected the key of a field, found the end of the payload (byte 6)".to_owned()),
        ("m v=1, w=2", "syntax: line 1: expected the key of a field, found a space (byte 6)".to_owned()),
        ("m v=", "syntax: line 1: expected the value of the field, found the end of the payload (byte 4)".to_owned()),
        ("m v=,w=1", "syntax: line 1: expected the value of the field, found ',' (byte 4)".to_owned()),
        ("m v= 1", "syntax: line 1: expected the value of the field, found a space (byte 4)".to_owned()),
        ("m v=1,v=2", "schema: line 1: the field is a duplicate (byte 6)".to_owned()),
        ("m v=1\nm w=1,x=2,w=3", "schema: line 2: the field is a duplicate (byte 16)".to_owned()),
        ("m v=1 x", "syntax: line 1: expected a timestamp, which is an integer, or the end of the line, found 'x' (byte 6)".to_owned()),
        ("m v=1 w=2", "syntax: line 1: expected a timestamp, which is an integer, or the end of the line, found 'w' (byte 6)".to_owned()),
        ("m v=1 1.5", "syntax: line 1: expected a timestamp, which is an integer, or the end of the line, found '1' (byte 6)".to_owned()),
        ("m v=1 -", "syntax: line 1: expected a timestamp, which is an integer, or the end of the line, found '-' (byte 6)".to_owned()),
        ("m v=1 \"1\"", "syntax: line 1: expected a timestamp, which is an integer, or the end of the line, found '\"' (byte 6)".to_owned()),
        ("m v=1 1 2", "syntax: line 1: expected the end of the line after the timestamp, found '2' (byte 8)".to_owned()),
        ("m v=1\rn v=2", "syntax: line 1: expected a comma, a space or the end of the line after the field, found '\\r' (byte 5)".to_owned()),
        ("m v=\"a\"1", "syntax: line 1: expected a comma, a space or the end of the line after the field, found '1' (byte 7)".to_owned()),
        ("m v=1\nn w=\"a\nb", "syntax: line 2: the payload ends inside a string (byte 10)".to_owned()),
        ("m v=\"a\\", "syntax: line 1: the payload ends inside a string (byte 4)".to_owned()),
        ("m v=\"a\nb\",w=x", format!("syntax: line 2: {number} (byte 12)")),
        ("m v=1\0", "encoding: line 1: PostgreSQL's text cannot hold the character U+0000 (byte 5)".to_owned()),
        ("m v=9223372036854775808i", "limits: line 1: the integer is beyond the range of 64 bits (byte 4)".to_owned()),
        ("m v=-9223372036854775809i", "limits: line 1: the integer is beyond the range of 64 bits (byte 4)".to_owned()),
        ("m v=18446744073709551616u", "limits: line 1: the integer is beyond the range of 64 bits (byte 4)".to_owned()),
        ("m v=1e309", "limits: line 1: the number is beyond the range of a double (byte 4)".to_owned()),
    ] {
        assert_eq!(why(payload), expected, "{payload:?}");
    }
    let words = [
        "x", "NaN", "nan", "inf", "-inf", "Infinity", "+", "-", ".", "-.", "i", "-i", "1e", "1e+", "1.0i", "1.5u",
        "-1u", "1ii", "--1", "+-1", "1a", "0x1", "1_000", "tRUE", "yes", "1\t", "'a'", "1+1", ".1a", "-e-e", "1f",
    ];
    for word in words {
        assert_eq!(why(&format!("m v={word}")), format!("syntax: line 1: {number} (byte 4)"), "{word}");
    }
    let not_utf8 = decode(&mut decoder(""), Some(0), b"m v=1\nm \xff=1", &mut Points::default());
    assert_eq!(not_utf8.unwrap_err(), "encoding: the payload is not UTF-8 (byte 8)");
}

#[test]
fn the_limits_of_messages_hold() {
    let fields = |count: usize| (0..count).map(|number| format!("f{number}=1")).collect::<Vec<_>>().join(",");
    assert_eq!(rows(&format!("m {}\nn {}", fields(10), fields(10))).len(), 20);
    assert_eq!(
        why(&format!("m {}\nn {}", fields(10), fields(11))),
        "too_large: line 2: the message has more than the 20 points allowed (byte 104)"
    );
    let long = "x".repeat(101);
    assert_eq!(
        why(&format!("m {long}=1")),
        "limits: line 1: the name has 101 bytes, more than the 100 allowed (byte 2)"
    );
    assert_eq!(
        why(&format!("m,a={long} v=1")),
        "limits: line 1: the name has 105 bytes, more than the 100 allowed (byte 0)"
    );
    assert_eq!(rows(&format!("{} v=1", &long[1..])).len(), 1);
    let mut decoder = decoder("");
    decoder.reject_series(["m,a=b".to_owned()]);
    let found = decode(&mut decoder, Some(0), b"n v=1\nm,a=b v=1", &mut Points::default()).unwrap_err();
    assert_eq!(found, "unknown_series: line 2: no series-create has come for this series (byte 6)");
}

/// Another reader's rules: each case is of one that the test of Telegraf's parser has under this name
/// (`plugins/parsers/influx/parser_test.go` in influxdata/telegraf), with a line of our own. Expected are the tags and the columns
/// as that parser reads them, without escapes.
#[test]
fn lines_are_read_as_telegrafs_parser_reads_them() {
    // Name of the case, line, tags as JSON, column, value; `None`: that parser rejects the line.
    type Case<'a> = (&'a str, &'a str, Option<(&'a str, &'a str, f64)>);
    let cases: [Case<'_>; 20] = [
        ("minimal", "pump flow=7.5", Some(("", "flow", 7.5))),
        ("minimal with newline", "pump flow=7.5\n", Some(("", "flow", 7.5))),
        ("measurement escape space", r"pump\ 1 flow=7.5", Some(("", "flow", 7.5))),
        ("measurement escape comma", r"pump\,1 flow=7.5", Some(("", "flow", 7.5))),
        ("tags", "pump,hall=h1,line=l2 flow=7.5", Some((r#"{"hall":"h1","line":"l2"}"#, "flow", 7.5))),
        ("tags escape unescapable", r"pump,ha\ll=h1 flow=7.5", Some((r#"{"ha\\ll":"h1"}"#, "flow", 7.5))),
        ("tags escape equals", r"pump,ha\=ll=h1 flow=7.5", Some((r#"{"ha=ll":"h1"}"#, "flow", 7.5))),
        ("tags escape comma", r"pump,ha\,ll=h1 flow=7.5", Some((r#"{"ha,ll":"h1"}"#, "flow", 7.5))),
        ("tag value escape space", r"pump,hall=north\ side flow=7.5", Some((r#"{"hall":"north side"}"#, "flow", 7.5))),
        (
            "tag value double escape space",
            r"pump,hall=north\\ side flow=7.5",
            Some((r#"{"hall":"north\\ side"}"#, "flow", 7.5)),
        ),
        (
            "tag value triple escape space",
            r"pump,hall=north\\\ side flow=7.5",
            Some((r#"{"hall":"north\\\\ side"}"#, "flow", 7.5)),
        ),
        ("field key escape not escapable", r"pump fl\ow=7.5", Some(("", r"fl\ow", 7.5))),
        ("field key escape equals", r"pump fl\=ow=7.5", Some(("", "fl=ow", 7.5))),
        ("field key escape comma", r"pump fl\,ow=7.5", Some(("", "fl,ow", 7.5))),
        ("field key escape space", r"pump fl\ ow=7.5", Some(("", "fl ow", 7.5))),
        ("field int max value", "pump n=9223372036854775807i", Some(("", "n", 9_223_372_036_854_775_807_i64 as f64))),
        ("field int overflow", "pump n=9223372036854775808i", None),
        ("field uint max value", "pump n=18446744073709551615u", Some(("", "n", u64::MAX as f64))),
        ("field uint overflow", "pump n=18446744073709551616u", None),
        ("invalid measurement only", "pump", None),
    ];
    for (name, line, expected) in cases {
        let mut points = Points::default();
        let result = decode(&mut decoder(""), Some(T_US / 1000), line.as_bytes(), &mut points);
        let Some((tags, column, value)) = expected else {
            assert!(result.is_err(), "{name}: {line}");
            continue;
        };
        assert_eq!(result, Ok(Message::PointBatch { points: 1 }), "{name}: {line}");
        let (_, found, time, number) = points.get(0);
        assert_eq!((found, time, number.to_bits()), (column, T_US, value.to_bits()), "{name}");
        let labels: Vec<&str> = points.series_labels().map(|(_, labels)| labels).collect();
        assert_eq!(labels.join(""), tags, "{name}");
    }
    // "field string", "field string escape quote", "field string escape backslash", "field string newline": what ends a string.
    for (line, expected) in [
        (r#"pump note="42",flow=7.5"#, 7.5),
        (r#"pump note="he said \"go\"",flow=7.5"#, 7.5),
        (r#"pump note="c:\\",flow=7.5"#, 7.5),
        ("pump note=\"two\nlines\",flow=7.5", 7.5),
    ] {
        assert_eq!(rows(line), [format!("pump flow 7 {expected}")], "{line}");
    }
    assert_eq!(decoded("strings = \"number\"", r#"pump flow="42""#).unwrap(), ["pump flow 7 42"]);
    assert_eq!(decoded("booleans = \"0-1\"", "pump on=true").unwrap(), ["pump on 7 1"]);
}
