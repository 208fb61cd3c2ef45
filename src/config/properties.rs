//! librdkafka's properties: those that are refused, and those that may be shown.

use super::similar::similar;

/// The reason for most refusals.
const GUARANTEE: &str = "exactly-once rests on the value that the program sets";
const OWN: &str = "the program sets it itself";

/// The refused properties, each with the reason.
const REFUSED: [(&str, &str); 22] = [
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("group.id", "set kafka.group_id instead"),
    ("session.timeout.ms", "set kafka.session_timeout_ms instead"),
    ("heartbeat.interval.ms", "it follows from kafka.session_timeout_ms"),
    ("auto.offset.reset", "a start is never left to Kafka; for partitions never read before set kafka.start"),
    ("partition.assignment.strategy", GUARANTEE),
    ("group.protocol", GUARANTEE),
    ("group.remote.assignor", GUARANTEE),
    ("group.instance.id", "a static member that has crashed keeps its partitions, and nobody reads them"),
    ("enable.auto.commit", GUARANTEE),
    ("auto.commit.enable", GUARANTEE),
    ("auto.commit.interval.ms", GUARANTEE),
    ("enable.auto.offset.store", GUARANTEE),
    ("offset.store.method", GUARANTEE),
    ("isolation.level", "messages of aborted transactions would be stored"),
    ("check.crcs", "damaged messages would be stored"),
    ("enable.partition.eof", GUARANTEE),
    ("allow.auto.create.topics", "a mistyped topic would be made instead of reported"),
    ("statistics.interval.ms", OWN),
    ("enable.metrics.push", OWN),
    ("plugin.library.paths", "a plugin could change what every other property means"),
];

/// The properties that may be shown. All others may be secrets, because librdkafka's list grows.
const SHOWN: [&str; 18] = [
    "broker.address.family",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "debug",
    "enable.ssl.certificate.verification",
    "log_level",
    "max.poll.interval.ms",
    "receive.message.max.bytes",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.crl.location",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
];
const SHOWN_PREFIXES: [&str; 6] = ["fetch.", "metadata.", "queued.", "reconnect.", "socket.", "topic.metadata."];

/// Other properties that are often set, for [`similar_property`].
const COMMON: [&str; 34] = [
    "api.version.request",
    "client.software.name",
    "coordinator.query.interval.ms",
    "connections.max.idle.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "message.max.bytes",
    "metadata.max.age.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "sasl.kerberos.keytab",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.oauthbearer.config",
    "sasl.password",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "topic.metadata.refresh.interval.ms",
];

/// The property of librdkafka that an unknown name resembles most.
pub(crate) fn similar_property(name: &str) -> Option<&'static str> {
    similar(name, SHOWN.into_iter().chain(COMMON).chain(REFUSED.iter().map(|(refused, _)| *refused)))
}

/// Returns the reason why a property cannot be set; `None` if it can.
pub(super) fn refusal(name: &str) -> Option<&'static str> {
    if name.ends_with("_cb") {
        return Some("a callback is not text");
    }
    REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, reason)| *reason)
}

/// Returns `true` if the property's value may be shown.
pub(super) fn is_shown(name: &str) -> bool {
    SHOWN.contains(&name) || SHOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The property that an environment variable's last part names: `SASL_USERNAME` is `sasl.username`.
pub(super) fn from_variable(part: &str) -> String {
    match part.to_ascii_lowercase().as_str() {
        // The only property whose name contains a `_`.
        "log_level" => "log_level".to_owned(),
        name => name.replace('_', "."),
    }
}
