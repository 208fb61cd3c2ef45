//! Messages of each kind, and their rows.

use std::sync::Arc;

use crate::input::{Decoder, InputOptions, Inputs};
use crate::message::{Limits, Message, Points};
use crate::raw::{Kind, RawMessage, Source, headers};

/// 2024-01-02T03:04:05Z.
const T_US: i64 = 1_704_164_645_000_000;

fn limits() -> Limits {
    Limits {
        max_bytes: 100_000,
        max_points: 20,
        max_name_bytes: 100,
        min_us: 0,
        max_us: 7_258_118_400_000_000,
        deny_unknown_fields: false,
    }
}

/// The inputs of a text in the form of a configuration's `[[input]]`.
fn inputs(toml: &str) -> Result<Inputs, String> {
    let table: toml::Table = toml.parse().unwrap();
    let options: InputOptions = table.try_into().map_err(|error| error.to_string())?;
    Inputs::compile("", "", &[options]).map_err(|problems| {
        problems.iter().map(|one| format!("{}: {}", one.key, one.text)).collect::<Vec<_>>().join("\n")
    })
}

/// The result of decoding a message: its points as `series column seconds-after-T value`, and the labels of each series.
struct Decoded {
    result: Result<Message, String>,
    rows: Vec<String>,
    labels: Vec<String>,
}

struct Case<'a> {
    topic: &'a str,
    key: Option<&'a str>,
    headers: &'a [(&'a str, &'a str)],
}

const PLAIN: Case<'static> = Case { topic: "t", key: None, headers: &[] };

fn decode_as(case: &Case<'_>, toml: &str, payload: &str) -> Decoded {
    let topics = if case.topic == "t" { "t" } else { r"^site\\.(.+)" };
    let toml = format!("name = \"i\"\ntopics = [\"{topics}\"]\n{toml}");
    let mut decoder = Decoder::new(limits(), inputs(&toml).unwrap());
    let source = Arc::new(Source {
        kind: Kind::Other,
        cluster_id: String::new(),
        topic: case.topic.to_owned(),
        topic_id: String::new(),
    });
    let headers = headers::encode(case.headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))));
    let message = RawMessage {
        offset: 0,
        time_ms: Some(T_US / 1000 + 7000),
        key: case.key.map(str::as_bytes),
        payload: Some(payload.as_bytes()),
        headers: headers.as_deref(),
    };
    let mut points = Points::default();
    let result = decoder
        .decode(&source, &message, &mut points)
        .map_err(|rejected| format!("{}: {}", rejected.reason.as_str(), rejected.detail));
    if result.is_err() {
        assert!(points.is_empty() && points.series_columns().is_empty(), "a rejected message leaves nothing behind");
    }
    let row = |index| {
        let (series, column, time, value) = points.get(index);
        format!("{series} {column} {} {value}", (time - T_US) as f64 / 1e6)
    };
    Decoded {
        result,
        rows: (0..points.len()).map(row).collect(),
        labels: points.series_labels().map(|(series, labels)| format!("{series} {labels}")).collect(),
    }
}

fn rows(toml: &str, payload: &str) -> Vec<String> {
    let decoded = decode_as(&PLAIN, toml, payload);
    decoded.result.unwrap_or_else(|why| panic!("{payload}: {why}"));
    decoded.rows
}

fn why(toml: &str, payload: &str) -> String {
    decode_as(&PLAIN, toml, payload).result.expect_err(payload)
}

const FLAT: &str = "format = \"json\"\nseries = \"{/site}/{/id}\"\ntime = { at = \"/ts\", unit = \"s\" }\n";

#[test]
fn a_flat_record_has_a_column_for_each_number() {
    let payload = r#"{"site":"a","id":7,"ts":1704164645.5,"t":1.5,"h":2,"note":"x","ok":true,"gone":null}"#;
    assert_eq!(rows(FLAT, payload), ["a/7 t 0.5 1.5", "a/7 h 0.5 2"]);
    let with = |more: &str| rows(&format!("{FLAT}{more}"), payload);
    assert_eq!(with("booleans = \"0-1\""), ["a/7 t 0.5 1.5", "a/7 h 0.5 2", "a/7 ok 0.5 1"]);
    assert_eq!(with("columns = { except = [\"/h\"] }"), ["a/7 t 0.5 1.5"]);
    assert_eq!(with("columns = { only = [\"/h\", \"/gone\"] }"), ["a/7 h 0.5 2", "a/7 gone 0.5 NaN"]);
    assert_eq!(with("columns = { rename = { \"/t\" = \"temperature\" } }"), ["a/7 temperature 0.5 1.5", "a/7 h 0.5 2"]);
    let decoded = decode_as(&PLAIN, &format!("{FLAT}labels = [\"/site\", \"/id\", \"/none\"]"), payload);
    assert_eq!(decoded.labels, [r#"a/7 {"site":"a","id":7}"#]);
    assert_eq!(rows(&FLAT.replace("{ at = \"/ts\", unit = \"s\" }", "\"kafka\""), payload)[0], "a/7 ts 7 1704164645.5");
}

#[test]
fn strings_and_booleans_are_what_the_input_says() {
    let payload = |value: &str| format!(r#"{{"site":"a","id":"b","ts":1704164645,"x":{value},"y":1}}"#);
    let with = |more: &str, value: &str| decode_as(&PLAIN, &format!("{FLAT}{more}"), &payload(value));
    for (text, value) in [("\"12.5\"", "12.5"), ("\"-1e3\"", "-1000"), ("\"+Inf\"", "inf"), ("\"NaN\"", "NaN")] {
        assert_eq!(with("strings = \"number\"", text).rows, [format!("a/b x 0 {value}"), "a/b y 0 1".to_owned()]);
    }
    assert_eq!(
        with("strings = \"number\"", "\"high\"").result.unwrap_err(),
        "schema: /x: expected a number in the string, and strings = \"number\" (byte 41)"
    );
    assert!(
        with("strings = \"number\"", "\"1e999\"").result.unwrap_err().starts_with("limits: /x: the number is beyond")
    );
    assert!(
        with("strings = \"reject\"", "\"1\"")
            .result
            .unwrap_err()
            .starts_with("schema: /x: expected a number, found a string")
    );
    assert!(
        with("booleans = \"reject\"", "true")
            .result
            .unwrap_err()
            .starts_with("schema: /x: expected a number, found a boolean")
    );
    assert!(with("", "1e999").result.unwrap_err().starts_with("limits: /x: the number is beyond"));
    assert_eq!(with("", "-Infinity").rows, ["a/b x 0 -inf", "a/b y 0 1"]);
}

#[test]
fn nested_values_are_flattened_or_skipped() {
    let payload = r#"{"site":"a","id":"b","ts":1704164645,"w":{"u":1,"v":{"x":2},"l":[3,{"m":4},"s"]},"y":5}"#;
    assert_eq!(rows(FLAT, payload), ["a/b w.u 0 1", "a/b w.v.x 0 2", "a/b w.l.0 0 3", "a/b w.l.1.m 0 4", "a/b y 0 5"]);
    let with = |more: &str| rows(&format!("{FLAT}{more}"), payload);
    assert_eq!(with("nested = \"skip\""), ["a/b y 0 5"]);
    assert_eq!(with("columns = { only = [\"/w/v\"] }"), ["a/b w.v.x 0 2"]);
    assert_eq!(
        with("columns = { rename = { \"/w\" = \"wind\" }, except = [\"/w/l\"] }"),
        ["a/b wind.u 0 1", "a/b wind.v.x 0 2", "a/b y 0 5"]
    );
    let deep = format!(r#"{{"site":"a","id":"b","ts":1704164645,"x":{}1{}}}"#, "[".repeat(40), "]".repeat(40));
    assert!(why(FLAT, &deep).contains("the nesting is too deep for columns"), "{}", why(FLAT, &deep));
    let dots = r#"{"site":"a","id":"b","ts":1704164645,"w":{"u":1},"w.u":2}"#;
    assert!(why(FLAT, dots).contains("the column \"w.u\" is a duplicate"));
}

#[test]
fn a_long_record_has_one_value() {
    let long = "format = \"json\"\nseries = \"{key}\"\ntime = { at = \"/t\" }\ncolumn = \"/m\"\nvalue = \"/v\"\n";
    let case = Case { key: Some("k"), ..PLAIN };
    let decoded = |more: &str, payload: &str| decode_as(&case, &format!("{long}{more}"), payload);
    let payload = r#"{"m":"temp","v":1.5,"t":"2024-01-02T03:04:05Z","other":9}"#;
    assert_eq!(decoded("", payload).rows, ["k temp 0 1.5"]);
    assert_eq!(decoded("", &payload.replace("1.5", "null")).rows, ["k temp 0 NaN"]);
    assert_eq!(decoded("strings = \"number\"", &payload.replace("1.5", "\"2\"")).rows, ["k temp 0 2"]);
    assert!(
        decoded("", &payload.replace("1.5", "\"2\""))
            .result
            .unwrap_err()
            .contains("expected a value to store: 1 are skipped")
    );
    assert!(
        decoded("", r#"{"m":"temp","t":"2024-01-02T03:04:05Z"}"#)
            .result
            .unwrap_err()
            .contains("expected /v, which is missing")
    );
    assert!(decode_as(&PLAIN, long, payload).result.unwrap_err().contains("series: expected a key"));
}

#[test]
fn each_element_of_an_array_is_a_record() {
    let each =
        "format = \"json\"\neach = \"/readings\"\nseries = \"{/device}\"\ntime = { at = \"/ts\", unit = \"s\" }\n";
    let payload =
        r#"{"device":"d","readings":[{"ts":1704164645,"x":1},{"ts":1704164646,"x":2,"device":"e"}],"more":3}"#;
    assert_eq!(rows(each, payload), ["d x 0 1", "e x 1 2"]);
    let after = r#"{"readings":[{"ts":1704164645,"x":1}],"device":"late"}"#;
    assert_eq!(rows(each, after), ["late x 0 1"], "what is around the records may stand after them");
    let fault = r#"{"device":"d","readings":[{"ts":1704164645,"x":1},{"ts":"?","x":2}]}"#;
    assert!(why(each, fault).starts_with("schema: /readings/1/ts: expected a timestamp"), "{}", why(each, fault));
    assert!(why(each, r#"{"device":"d"}"#).contains("expected /readings, which is missing"));
    assert!(
        why(each, r#"{"device":"d","readings":{"ts":1}}"#).contains("/readings: expected an array, found an object")
    );
    assert_eq!(rows(each, r#"{"device":"d","readings":[]}"#), [""; 0]);
    let without = why(each, r#"{"device":"d","readings":[{"ts":1704164645}]}"#);
    assert!(without.contains("expected a value to store, found none"), "{without}");
    let elements = each.replace("/readings", "");
    assert_eq!(rows(&elements, r#"[{"device":"d","ts":1704164645,"x":1}]"#), ["d x 0 1"]);
    let whole = each.replace("each = \"/readings\"\n", "");
    assert!(why(&whole, r#"[{"device":"d","ts":1704164645,"x":1}]"#).contains("found an array: set each"));
    let lines = "{\"device\":\"d\",\"ts\":1704164645,\"x\":1}\n{\"device\":\"e\",\"ts\":1704164646,\"x\":2}\n";
    assert_eq!(rows(&whole, lines), ["d x 0 1", "e x 1 2"]);
}

#[test]
fn a_series_is_named_by_what_a_message_has() {
    let named = |series: &str, case: &Case<'_>| {
        let toml = format!("format = \"json\"\nseries = \"{series}\"\ntime = \"kafka\"");
        let decoded = decode_as(case, &toml, r#"{"x":1,"n":null,"a/b":"slash","e":""}"#);
        decoded.result.map(|_| decoded.rows[0].split(' ').next().unwrap().to_owned())
    };
    let case = Case { topic: "site.berlin", key: Some("k"), headers: &[("h", "v")] };
    assert_eq!(
        named("{topic}-{key}-{header:h}-{/a~1b}", &PLAIN).unwrap_err(),
        "schema: series: expected a key of the message, which is text; it has none (byte 0)"
    );
    assert_eq!(named("{topic:1}-{key}-{header:h}-{/a~1b}", &case), Ok("berlin-k-v-slash".to_owned()));
    assert!(named("{header:g}", &case).unwrap_err().contains("expected the header \"g\""));
    assert!(named("{/n}", &case).unwrap_err().contains("expected /n, which is missing"));
    assert!(named("{/e}", &case).unwrap_err().contains("series: expected a text in /e, found an empty one"));
}

#[test]
fn telegrafs_metrics_are_named_as_in_line_protocol() {
    let toml = "format = \"telegraf-json\"";
    let metric = |name: &str| {
        format!(
            r#"{{"fields":{{"idle":91.5,"text":"x","up":true}},"name":"{name}","tags":{{"region":"eu","host":"a b"}},"timestamp":1704164645}}"#
        )
    };
    let alone = decode_as(&PLAIN, toml, &metric("cpu"));
    assert_eq!(alone.rows, [r"cpu,host=a\ b,region=eu idle 0 91.5"]);
    assert_eq!(alone.labels, [r#"cpu,host=a\ b,region=eu {"host":"a b","region":"eu"}"#]);
    let batch = format!(r#"{{"metrics":[{},{}]}}"#, metric("cpu"), metric("mem"));
    assert_eq!(rows(toml, &batch), [r"cpu,host=a\ b,region=eu idle 0 91.5", r"mem,host=a\ b,region=eu idle 0 91.5"]);
    // In any form: a batch as Telegraf writes it is read once, another one twice.
    for written in [
        format!(r#"{{"a":[1],"metrics":[{}],"b":2}}"#, metric("mem")),
        format!(r#"{{"metrics":[{}],"b":{{}},"metrics":null}}"#, metric("mem")),
    ] {
        assert_eq!(rows(toml, &written), [r"mem,host=a\ b,region=eu idle 0 91.5"], "{written}");
        let twice = written.replace("\"b\"", "\"metrics\"");
        assert!(why(toml, &twice).starts_with("schema: /metrics: the field is a duplicate"), "{twice}");
        let cut = &written[..written.len() - 1];
        assert!(why(toml, cut).starts_with("syntax: the payload ends inside an object"), "{cut}");
    }
    let strings = r#"{"fields":{"text":"x"},"name":"n","tags":{},"timestamp":1704164645}"#;
    assert_eq!(decode_as(&PLAIN, toml, strings).result, Ok(Message::Skipped));
    let ms = metric("cpu").replace("1704164645", "1704164645500");
    assert_eq!(rows("format = \"telegraf-json\"\nunit = \"ms\"", &ms), [r"cpu,host=a\ b,region=eu idle 0.5 91.5"]);
    assert!(
        why(toml, r#"{"site":"a","x":1}"#).contains("/timestamp, which is missing")
            || why(toml, r#"{"site":"a","x":1}"#).contains("found none")
    );
}

#[test]
fn samples_of_prometheus_are_named_as_well() {
    let toml = "format = \"prometheus-json\"";
    let sample = r#"{"timestamp":"2024-01-02T03:04:05Z","value":"12.5","name":"up","labels":{"__name__":"up","job":"a","instance":"h:1"}}"#;
    let decoded = decode_as(&PLAIN, toml, sample);
    assert_eq!(decoded.rows, ["up,instance=h:1,job=a value 0 12.5"]);
    assert_eq!(decoded.labels, [r#"up,instance=h:1,job=a {"instance":"h:1","job":"a"}"#]);
    assert_eq!(rows(toml, &sample.replace("12.5", "NaN")), ["up,instance=h:1,job=a value 0 NaN"]);
    assert!(
        why(toml, &sample.replace("\"12.5\"", "\"\"")).contains("/value")
            || why(toml, &sample.replace("12.5", "")).contains("expected a number")
    );
}

#[test]
fn a_change_of_debeziums_is_its_row_after_it() {
    let toml =
        "format = \"debezium-json\"\nseries = \"{/source/table}-{/id}\"\ntime = { at = \"/ts\", unit = \"us\" }\n";
    let change = |op: &str, after: &str| {
        format!(r#"{{"before":null,"after":{after},"source":{{"table":"sensors","ts_ms":1}},"op":"{op}","ts_ms":2}}"#)
    };
    let row = r#"{"id":1,"ts":1704164645000000,"temp":20.5,"name":"x"}"#;
    for op in ["c", "u", "r"] {
        assert_eq!(rows(toml, &change(op, row)), ["sensors-1 temp 0 20.5"]);
        let with_schema = format!(r#"{{"schema":{{"type":"struct","fields":[]}},"payload":{}}}"#, change(op, row));
        assert_eq!(rows(toml, &with_schema), ["sensors-1 temp 0 20.5"]);
    }
    // By its nature it has nothing to store, unlike one whose values are all skipped.
    for op in ["d", "t", "m"] {
        assert_eq!(decode_as(&PLAIN, toml, &change(op, "null")).result, Ok(Message::Empty), "{op}");
    }
    let each = FLAT.replace("time =", "each = \"/readings\"\ntime =");
    for empty in [r#"{"readings":[]}"#, "{\"readings\":[]}\n{\"readings\":[]}"] {
        assert_eq!(decode_as(&PLAIN, &each, empty).result, Ok(Message::Empty), "{empty}");
    }
    assert!(why(toml, &change("c", "null")).contains("expected the row in after"));
    assert!(why(toml, &change("x", row)).contains("Debezium's operations"));
    assert!(why(toml, row).contains("expected op"));
    let fault = change("c", &row.replace("1704164645000000", "true"));
    assert!(why(toml, &fault).starts_with("schema: /after/ts: expected a time"), "{}", why(toml, &fault));
}

#[test]
fn an_event_has_its_attributes_around_its_data_or_in_headers() {
    let toml = "format = \"cloudevents\"\nseries = \"{/source}:{/subject}\"\n";
    let event = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"u","time":"2024-01-02T03:04:05Z","datacontenttype":"application/json","data":{"x":1,"time":5}}"#;
    assert_eq!(rows(toml, event), ["/s:u x 0 1", "/s:u time 0 5"]);
    let headers =
        [("ce_specversion", "1.0"), ("ce_source", "/s"), ("ce_subject", "u"), ("ce_time", "2024-01-02T03:04:06Z")];
    let binary = Case { headers: &headers, ..PLAIN };
    let decoded = decode_as(&binary, toml, r#"{"x":1}"#);
    assert_eq!((decoded.result, decoded.rows), (Ok(Message::PointBatch { points: 1 }), vec!["/s:u x 1 1".to_owned()]));
    let without_time = event.replace("\"time\":\"2024-01-02T03:04:05Z\",", "");
    assert_eq!(rows(toml, &without_time)[0], "/s:u x 7 1", "an event without a time has the message's");
    assert!(why(toml, r#"{"specversion":"1.0","source":"/s","subject":"u"}"#).contains("expected data"));
    let each = format!("{toml}each = \"/values\"\ntime = {{ at = \"/t\" }}");
    let several = event.replace(r#"{"x":1,"time":5}"#, r#"{"values":[{"t":1704164645,"x":1},{"t":1704164646,"x":2}]}"#);
    assert_eq!(rows(&each, &several), ["/s:u x 0 1", "/s:u x 1 2"]);
    assert_eq!(decode_as(&binary, &each, r#"{"values":[{"t":1704164645,"x":1}]}"#).rows, ["/s:u x 0 1"]);
}

#[test]
fn what_is_not_a_record_is_rejected_with_its_place() {
    for (payload, part) in [
        ("", "empty: the payload is empty"),
        ("not json", "syntax:"),
        ("7", "schema: expected an object, found a number (byte 0)"),
        (r#"{"site":"a","id":"b","ts":1704164645"#, "syntax: the payload ends inside an object"),
        (r#"{"site":"a","id":"b","ts":1704164645,"x":1} x"#, "syntax:"),
        (r#"{"site":"a","id":"b","x":1}"#, "schema: expected /ts, which is missing (byte 0)"),
        (r#"{"site":"a","id":"b","ts":5e12,"x":1}"#, "time_window: /ts: the timestamp"),
        (
            r#"{"site":"a","id":["b"],"ts":1704164645,"x":1}"#,
            "schema: /id: expected a string, a number or a boolean, found an array",
        ),
        (r#"{"site":"a","id":"b","ts":1704164645,"ts":1,"x":1}"#, "schema: /ts: the field is a duplicate"),
        (r#"{"site":"a","id":"b","ts":1704164645,"x":1,"x":2}"#, "schema: the column \"x\" is a duplicate"),
        (r#"{"site":"a","id":"b","ts":1704164645}"#, "schema: expected a value to store, found none"),
        (r#"{"site":"a","id":"b","ts":1704164645,"x":"s"}"#, "schema: expected a value to store: 1 are skipped"),
        ("{\"site\":\"\\u0000\",\"id\":\"b\",\"ts\":1704164645,\"x\":1}", "encoding: /site:"),
        ("{\"site\":\"a\",\"id\":\"b\",\"ts\":1704164645,\"x\\u0000\":1}", "encoding:"),
    ] {
        let found = why(FLAT, payload);
        assert!(found.starts_with(part), "{payload}: {found}");
    }
    let many: Vec<String> = (0..21).map(|number| format!("\"c{number}\":1")).collect();
    let many = format!(r#"{{"site":"a","id":"b","ts":1704164645,{}}}"#, many.join(","));
    assert!(why(FLAT, &many).starts_with("too_large: /c20:"), "{}", why(FLAT, &many));
    let long = format!(r#"{{"site":"a","id":"b","ts":1704164645,"{}":1}}"#, "n".repeat(101));
    assert!(why(FLAT, &long).starts_with("limits: /nnn"), "{}", why(FLAT, &long));
}

#[test]
fn nothing_vanishes_in_silence() {
    let each = "format = \"json\"\neach = \"/r\"\nseries = \"{/s}\"\ntime = \"kafka\"\n";
    let long = format!("{each}column = \"/n\"\nvalue = \"/v\"\n");
    for (toml, payload, part) in [
        // One of two arrays of records would be lost, and one of two tags of the same name.
        (each, r#"{"s":"o","r":[{"v":1}],"r":[{"v":2}]}"#, "/r: the field is a duplicate"),
        (
            "format = \"telegraf-json\"",
            r#"{"fields":{"x":1},"name":"m","tags":{"h":"a","h":"b"},"timestamp":1704164645}"#,
            "the tag is a duplicate",
        ),
        // A record whose values are skipped is checked like any other.
        (each, r#"{"r":[{"a":"x"},{"s":"o","a":1}]}"#, "/r/0: expected /s, which is missing"),
        // A value around the records is not theirs, and null hides it.
        (&long, r#"{"s":"o","v":99,"r":[{"n":"x"}]}"#, "expected /v, which is missing"),
        (each, r#"{"s":"o","r":[{"s":null,"v":1}]}"#, "expected /s, which is missing"),
        // A value that names something must be a text or a number.
        (each, r#"{"s":{"id":1},"r":[{"v":1}]}"#, "/s: expected a string, a number or a boolean, found an object"),
    ] {
        let found = why(toml, payload);
        assert!(found.contains(part), "{payload}: {found}");
    }
    // A place may be both the time and a column.
    let both = FLAT.replace("time =", "columns = { only = [\"/ts\", \"/x\"] }\ntime =");
    let payload = r#"{"site":"a","id":"b","ts":1704164645,"x":1,"y":2}"#;
    assert_eq!(rows(&both, payload), ["a/b ts 0 1704164645", "a/b x 0 1"]);
    // A skipped value may contain anything.
    assert_eq!(rows(FLAT, &payload.replace("\"y\":2", "\"y\":\"\\u0000\"")), ["a/b x 0 1"]);
    // A message is skipped with its only value only if the configuration says so.
    let skips = format!("{long}strings = \"skip\"");
    let text = r#"{"s":"o","r":[{"n":"x","v":"on"}]}"#;
    assert_eq!(decode_as(&PLAIN, &skips, text).result, Ok(Message::Skipped));
    assert!(why(&long, text).contains("expected a value to store"));
    let event = r#"{"specversion":"1.0","id":"1","type":"t","source":"/outer","data":{"source":"inner","x":1}}"#;
    assert_eq!(rows("format = \"cloudevents\"", event), ["/outer x 7 1"], "the event's own source");
}

#[test]
fn what_is_wrong_with_an_input_is_named_by_its_key() {
    let base = "name = \"i\"\ntopics = [\"t\"]\n";
    for (toml, part) in [
        ("format = \"json\"", "input \"i\".series: is missing"),
        ("format = \"json\"\nseries = \"{x}\"\ntime = \"kafka\"", "input \"i\".series: is \"{x}\"; {x} is unknown"),
        ("format = \"json\"\nseries = \"a\"", "input \"i\".time: is missing"),
        ("format = \"json\"\nseries = \"a\"\ntime = \"now\"", "time is \"now\"; set \"kafka\""),
        (
            "format = \"json\"\nseries = \"a\"\ntime = { at = \"ts\" }",
            "input \"i\".time.at: is \"ts\", not a JSON Pointer; begin it with /",
        ),
        ("format = \"json\"\nseries = \"a\"\ntime = { at = \"/ts\", unit = \"m\" }", "input \"i\".time.unit: is \"m\""),
        ("format = \"json\"\nseries = \"a\"\ntime = { at = \"/ts\", zone = \"x\" }", "unknown field `zone`"),
        ("format = \"json\"\nseries = \"{topic:1}\"\ntime = \"kafka\"", "input \"i\".series: names group 1"),
        ("format = \"json\"\nseries = \"a\"\ntime = \"kafka\"\ncolumn = \"/c\"", "input \"i\".value: is missing"),
        (
            "format = \"json\"\nseries = \"a\"\ntime = \"kafka\"\ncolumns = { only = [\"/a\"], except = [\"/b\"] }",
            "input \"i\".columns: has both",
        ),
        ("format = \"influx\"\nseries = \"a\"", "input \"i\".series: has no effect with the format \"influx\""),
        ("format = \"json\"\nseries = \"a\"\ntime = \"kafka\"\nserie = \"x\"", "unknown field `serie`"),
        ("format = \"jsn\"", "unknown variant `jsn`"),
        ("format = \"json\"\nseries = \"/s\"\ntime = \"kafka\"", "the same text for every message; write {/s}"),
        ("format = \"json\"\nseries = \"{{/s}}\"\ntime = \"kafka\"", "the same text for every message; write {/s}"),
        (
            "format = \"json\"\nseries = \"{/s}\"\ntime = \"kafka\"\nlabels = [\"/a/b\", \"/a.b\"]",
            "has two labels \"a.b\"",
        ),
        (
            "format = \"json\"\nseries = \"{/s}\"\ntime = \"kafka\"\ncolumns = { only = [\"/a\"], rename = { \"/b\" = \"x\" } }",
            "columns.rename: has \"/b\", which only does not name",
        ),
        (
            "format = \"json\"\nseries = \"{/s}\"\ntime = \"kafka\"\ncolumns = { rename = { \"/a\" = \"x\\u0000\" } }",
            "cannot hold the character U+0000",
        ),
    ] {
        let found = inputs(&format!("{base}{toml}")).err().unwrap_or_default();
        assert!(found.contains(part), "{toml}: {found}");
    }
    let topics = |list: &str| inputs(&format!("name = \"i\"\ntopics = {list}\nformat = \"influx\"")).err();
    assert!(topics("[\"a b\"]").unwrap().contains("not the name of a topic"));
    assert!(topics("[\"^(\"]").unwrap().contains("not a regular expression"));
    assert!(topics("[]").unwrap().contains("name at least one topic"));
    assert_eq!(topics("[\"a\", \"^b.*\"]"), None);
}
