//! Messages as devices, agents and connectors that people use publish them, after their documentation: for the tests of
//! `topic inspect`. The values are made up.

#![allow(unreachable_pub, dead_code, reason = "used by unit tests and by integration tests")]

use serde_json::{Value, json};

/// 2024-05-01T00:00:00Z, in seconds since the Unix epoch.
pub const START_S: i64 = 1_714_521_600;

/// A message of a shape.
#[derive(Debug, Clone, Default)]
pub struct Shaped {
    pub key: Option<String>,
    pub headers: Vec<(String, String)>,
    pub payload: String,
}

/// Messages of one shape.
pub struct Shape {
    /// A name that can be a topic's.
    pub name: &'static str,
    pub messages: Vec<Shaped>,
    /// The format that `topic inspect` has to find.
    pub format: &'static str,
    /// Minimum number of points of a message.
    pub points: usize,
}

/// The name, the format, the points of a message at least, and the message of each number.
type Kind = (&'static str, &'static str, usize, fn(usize) -> Shaped);

/// All shapes, with `count` messages each.
pub fn all(count: usize) -> Vec<Shape> {
    let kinds: [Kind; 11] = [
        // Telegraf's JSON serializer, docs of plugins/serializers/json, with use_batch_format = true.
        ("telegraf", "telegraf-json", 6, telegraf),
        // The README of Telefonica/prometheus-kafka-adapter.
        ("prometheus", "prometheus-json", 1, prometheus),
        // Debezium's connector for PostgreSQL with the JSON converter and schemas.enable = true.
        ("debezium", "debezium-json", 2, debezium),
        // The JSON event format of CloudEvents 1.0, section 3.
        ("cloudevents", "cloudevents", 2, cloudevent),
        // The Kafka protocol binding of CloudEvents 1.0, binary content mode.
        ("cloudevents-binary", "cloudevents", 1, cloudevent_binary),
        // What Telegraf's output of metrics in data_format = "influx" is.
        ("influx", "influx", 3, line_protocol),
        // Zigbee2MQTT's state of a device, keyed by its topic.
        ("zigbee2mqtt", "json", 4, zigbee2mqtt),
        // A flat record with a device and milliseconds, as examples of AWS IoT have it.
        ("aws-iot", "json", 2, aws_iot),
        // One value a message, as gateways publish it.
        ("one-value", "json", 1, one_value),
        // Tasmota's tele/…/SENSOR: objects by sensor, and a local time without zone.
        ("tasmota", "json", 3, tasmota),
        // An uplink of The Things Stack v3, "Data formats" in its documentation, shortened.
        ("the-things-stack", "json", 2, the_things_stack),
    ];
    let shape = |(name, format, points, message): (&'static str, &'static str, usize, fn(usize) -> Shaped)| Shape {
        name,
        messages: (0..count).map(message).collect(),
        format,
        points,
    };
    kinds.into_iter().map(shape).collect()
}

fn message(key: Option<String>, payload: &Value) -> Shaped {
    Shaped { key, headers: Vec::new(), payload: payload.to_string() }
}

fn second(number: usize) -> i64 {
    START_S + number as i64
}

/// A date-time in RFC 3339, with `between` between date and time.
fn rfc3339(number: usize, between: &str, end: &str) -> String {
    let of_day = number % 86_400;
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("2024-05-{:02}{between}{hours:02}:{minutes:02}:{seconds:02}{end}", 1 + number / 86_400)
}

fn wave(number: usize) -> f64 {
    (number % 97) as f64 / 8.0 + 15.25
}

fn telegraf(number: usize) -> Shaped {
    let metric = |name: &str, host: usize| {
        json!({"fields": {"usage_idle": wave(number), "usage_user": 3, "note": "x"}, "name": name,
            "tags": {"host": format!("host-{host}"), "cpu": "cpu0"}, "timestamp": second(number)})
    };
    message(None, &json!({"metrics": [metric("cpu", number % 5), metric("cpu", 5), metric("mem", 6)]}))
}

fn prometheus(number: usize) -> Shaped {
    let value = if number % 50 == 7 { "NaN".to_owned() } else { wave(number).to_string() };
    let labels = json!({"__name__": "node_load1", "instance": format!("10.0.0.{}:9100", number % 4), "job": "node"});
    message(
        None,
        &json!({"timestamp": rfc3339(number, "T", "Z"), "value": value, "name": "node_load1", "labels": labels}),
    )
}

fn debezium(number: usize) -> Shaped {
    let row = json!({"id": number, "sensor_name": format!("s{}", number % 9), "measured_at": second(number) * 1_000_000,
        "temperature": wave(number), "humidity": 55.5});
    let source = json!({"version": "3.0.0.Final", "connector": "postgresql", "name": "server1", "ts_ms": second(number) * 1000,
        "db": "plant", "schema": "public", "table": "readings", "lsn": 24023128});
    let (op, before, after) = if number % 100 == 99 { ("d", row, Value::Null) } else { ("c", Value::Null, row) };
    let payload =
        json!({"before": before, "after": after, "source": source, "op": op, "ts_ms": second(number) * 1000 + 5});
    let schema = json!({"type": "struct", "optional": false, "name": "server1.public.readings.Envelope", "fields": [
        {"type": "string", "optional": false, "field": "op"}]});
    message(Some(json!({"id": number}).to_string()), &json!({"schema": schema, "payload": payload}))
}

fn cloudevent(number: usize) -> Shaped {
    message(
        None,
        &json!({"specversion": "1.0", "type": "com.example.reading", "source": format!("/plant/press-{}", number % 6),
            "id": format!("A234-1234-{number}"), "time": rfc3339(number, "T", "Z"), "datacontenttype": "application/json",
            "data": {"pressure": wave(number), "temperature": 80.5, "state": "run"}}),
    )
}

fn cloudevent_binary(number: usize) -> Shaped {
    let headers = [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_type", "com.example.reading".to_owned()),
        ("ce_source", format!("/plant/press-{}", number % 6)),
        ("ce_id", format!("{number}")),
        ("ce_time", rfc3339(number, "T", "Z")),
        ("content-type", "application/json".to_owned()),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Shaped { key: None, headers, payload: json!({"pressure": wave(number)}).to_string() }
}

fn line_protocol(number: usize) -> Shaped {
    let ns = second(number) * 1_000_000_000;
    let line =
        |host: usize| format!("cpu,host=host-{host},region=eu\\ west usage_idle={},usage_user=3i {ns}\n", wave(number));
    Shaped { payload: format!("{}{}", line(number % 5), line(5)), ..Shaped::default() }
}

fn zigbee2mqtt(number: usize) -> Shaped {
    let payload = json!({"battery": 100, "humidity": 50.5, "linkquality": 70 + number % 30, "pressure": 1013.5,
        "temperature": wave(number), "voltage": 3015, "last_seen": rfc3339(number, "T", "+00:00"), "tamper": false});
    message(Some(format!("zigbee2mqtt/room-{}", number % 8)), &payload)
}

fn aws_iot(number: usize) -> Shaped {
    let payload = json!({"deviceId": format!("thermostat-{}", number % 12), "location": format!("floor {}", number % 12 / 4),
        "timestamp": second(number) * 1000, "temperature": wave(number), "humidity": 41});
    message(None, &payload)
}

fn one_value(number: usize) -> Shaped {
    let metric = ["temperature", "humidity", "co2"][number % 3];
    let payload = json!({"gateway": "gw-1", "sensor": format!("s-{}", number / 3 % 7), "metric": metric,
        "value": wave(number), "unit": (["C", "%", "ppm"][number % 3]), "ts": second(number)});
    message(None, &payload)
}

fn tasmota(number: usize) -> Shaped {
    let payload = json!({"Time": rfc3339(number, "T", ""), "ENERGY": {"TotalStartTime": "2023-01-01T00:00:00",
        "Total": wave(number), "Power": 12, "Voltage": 230}, "TempUnit": "C"});
    message(Some(format!("tele/plug-{}/SENSOR", number % 3)), &payload)
}

fn the_things_stack(number: usize) -> Shaped {
    let device = format!("soil-{}", number % 10);
    let payload = json!({
        "end_device_ids": {"device_id": device, "application_ids": {"application_id": "farm"},
            "dev_eui": format!("70B3D57ED00{:05X}", number % 10)},
        "correlation_ids": [format!("as:up:{number}")],
        "received_at": rfc3339(number, "T", ".500Z"),
        "uplink_message": {
            "f_port": 2, "f_cnt": number, "frm_payload": "AQIDBA==",
            "decoded_payload": {"moisture": wave(number), "battery": 3.5},
            "rx_metadata": [{"gateway_ids": {"gateway_id": "gw"}, "time": rfc3339(number, "T", "Z"), "rssi": -35, "snr": 5.2}],
            "received_at": rfc3339(number, "T", ".400Z")}});
    message(None, &payload)
}
