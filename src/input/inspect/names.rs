//! Guesses the meaning of a value from the name of its key.

/// Names of the sender of measurements, the surest first.
const SENDERS: [&str; 31] = [
    "device",
    "sensor",
    "station",
    "host",
    "hostname",
    "meter",
    "thing",
    "node",
    "machine",
    "asset",
    "equipment",
    "serial",
    "mac",
    "eui",
    "imei",
    "probe",
    "vehicle",
    "vin",
    "plc",
    "inverter",
    "turbine",
    "instance",
    "client",
    "addr",
    "tag",
    "gateway",
    "gw",
    "dev",
    "bn",
    "equip",
    "id",
];
/// Names of the sender's place.
const PLACES: [&str; 15] = [
    "site", "location", "building", "room", "plant", "area", "zone", "region", "floor", "line", "city", "country",
    "farm", "field", "tenant",
];
/// Names of the measured quantity, in records with one value.
const QUANTITIES: [&str; 17] = [
    "metric",
    "measurement",
    "parameter",
    "channel",
    "quantity",
    "variable",
    "signal",
    "type",
    "kind",
    "name",
    "n",
    "key",
    "property",
    "attribute",
    "field",
    "datapoint",
    "item",
];
/// Number of the names of quantities that have no other meaning.
pub(super) const SURE_QUANTITIES: usize = 7;
/// Names of the value of a quantity.
const VALUES: [&str; 8] = ["value", "v", "val", "reading", "measure", "result", "vn", "data"];
/// Names of arrays of records.
const ARRAYS: [&str; 17] = [
    "readings",
    "measurements",
    "values",
    "samples",
    "records",
    "items",
    "points",
    "observations",
    "results",
    "metrics",
    "data",
    "sensors",
    "e",
    "entries",
    "series",
    "telemetry",
    "datapoints",
];

/// The words of the last key of a pointer, in lower case: `deviceId` is `device` and `id`.
pub(super) fn words(pointer: &str) -> Vec<String> {
    let last = pointer.rsplit('/').next().unwrap_or_default();
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in last.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && was_small {
            words.push(String::new());
        }
        was_small = c.is_lowercase() || c.is_ascii_digit();
        if c.is_alphanumeric() {
            words.last_mut().expect("there is one").extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The index of the first name that is a word of the key, alone or followed by a suffix such as in `deveui`.
fn rank(pointer: &str, names: &[&str]) -> Option<usize> {
    const OF_NAMES: [&str; 7] = ["id", "name", "eui", "uid", "no", "number", "address"];
    let words = words(pointer);
    let is_of = |name: &str| {
        words.iter().any(|word| word == name || OF_NAMES.iter().any(|more| word.strip_prefix(name) == Some(*more)))
    };
    names.iter().position(|name| is_of(name))
}

/// The rank of a key as the name of a sender: 0 is the surest. `device_temp` has none: its last word must mean a name, or the
/// sender itself.
pub(super) fn sender_rank(pointer: &str) -> Option<usize> {
    let words = words(pointer);
    let last = words.last()?;
    let names =
        ["id", "name", "eui", "uid", "uuid", "no", "nr", "number", "address", "addr", "key", "code", "tag", "ref"];
    let is_name = names.contains(&last.as_str()) || rank(&format!("/{last}"), &SENDERS).is_some();
    if is_name { rank(pointer, &SENDERS) } else { None }
}

/// Returns `true` if numbers of this key may be names.
pub(super) fn is_of_numbers_that_name(pointer: &str) -> bool {
    let words = words(pointer);
    let is_sender = words.len() == 1 && SENDERS.contains(&words[0].as_str());
    is_sender
        || words.last().is_some_and(|last| ["id", "no", "nr", "number", "serial", "address"].contains(&last.as_str()))
}

pub(super) fn is_place(pointer: &str) -> bool {
    rank(pointer, &PLACES).is_some()
}

/// Returns `true` if the key may identify each message rather than its sender.
pub(super) fn may_be_of_message(pointer: &str) -> bool {
    let words = words(pointer);
    let of_message = [
        "message",
        "msg",
        "event",
        "request",
        "trace",
        "correlation",
        "transaction",
        "uuid",
        "guid",
        "seq",
        "reading",
        "record",
        "sample",
        "point",
        "span",
        "row",
        "log",
    ];
    words.iter().any(|word| of_message.contains(&word.as_str())) || words == ["id"]
}

pub(super) fn quantity_rank(pointer: &str) -> Option<usize> {
    rank(pointer, &QUANTITIES)
}

pub(super) fn is_value(pointer: &str) -> bool {
    let words = words(pointer);
    words.last().is_some_and(|last| VALUES.contains(&last.as_str()))
}

pub(super) fn is_array_of_records(pointer: &str) -> bool {
    let words = words(pointer);
    words.last().is_some_and(|last| ARRAYS.contains(&last.as_str()))
}

/// The rank of a key as the name of a measurement's time: 0 is the surest.
pub(super) fn time_rank(pointer: &str) -> Option<usize> {
    let words = words(pointer);
    let last = words.last()?.as_str();
    // Words for times of something other than a measurement.
    let others = [
        "until",
        "valid",
        "expire",
        "expires",
        "expiry",
        "install",
        "installed",
        "boot",
        "start",
        "started",
        "due",
        "birth",
        "warranty",
        "fw",
        "firmware",
        "build",
        "uptime",
    ];
    if words.iter().any(|word| others.contains(&word.as_str())) {
        return None;
    }
    let all = words.join("");
    let surest = ["timestamp", "ts", "time", "datetime", "t", "date", "epoch", "when"];
    if let Some(rank) = surest.iter().position(|name| *name == all) {
        return Some(rank);
    }
    let of_measurement =
        ["event", "measure", "measured", "observ", "observed", "sample", "sampled", "record", "recorded"];
    let is_time = surest.contains(&last)
        || ["at", "ms", "us", "ns"].contains(&last)
        || all.ends_with("time")
        || all.ends_with("timestamp")
        || all.ends_with("date");
    is_time.then(|| {
        let is_of_measurement = of_measurement.iter().any(|word| all.contains(word));
        // The time at which a row was created or a message arrived is seldom the time of the measurement.
        let is_of_transport = ["create", "update", "receive", "ingest", "insert", "process", "commit"]
            .iter()
            .any(|word| all.contains(word));
        if is_of_measurement {
            10
        } else if is_of_transport {
            30
        } else {
            20
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_values_are() {
        assert_eq!(words("/a/deviceId"), ["device", "id"]);
        assert_eq!(words("/ENERGY/Total_kWh"), ["total", "k", "wh"]);
        assert!(sender_rank("/device_id") < sender_rank("/id"));
        assert!(sender_rank("/temperature").is_none() && sender_rank("/devEui").is_some());
        assert!(is_place("/siteName") && !is_place("/humidity"));
        assert!(time_rank("/ts") < time_rank("/measuredAt") && time_rank("/measuredAt") < time_rank("/created_at"));
        assert!(time_rank("/temperature").is_none());
        assert!(may_be_of_message("/id") && may_be_of_message("/msgId") && !may_be_of_message("/device_id"));
        assert!(is_value("/value") && is_value("/sensorValue") && !is_value("/values"));
        assert!(is_array_of_records("/a/readings"));
    }
}
