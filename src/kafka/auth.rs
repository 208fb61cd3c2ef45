//! This client's credentials, and the brokers' answers to them.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use tracing::{debug, warn};

use super::credentials::Credentials;
use crate::config::{Kafka, read_secret};
use crate::telemetry::escaped;
use crate::telemetry::log_limit::LogLimit;

/// Lifetime assumed for a token that does not say when it expires.
const TOKEN_LIFETIME_MS: i64 = 300_000;

/// librdkafka's name of its log lines about connections that fail or end.
const CONNECTION: &str = "FAIL";

/// A client's credentials, and its latest refusals. It is the context of every client that needs nothing more.
#[derive(Debug, Default)]
pub(super) struct AuthContext {
    token_file: Option<PathBuf>,
    credentials: Credentials,
    has_token: AtomicBool,
    refusals: Mutex<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    connection: Option<String>,
    group: Option<String>,
    /// The end of the last connection by a broker, from librdkafka's log.
    end: Option<String>,
    /// The reason why the last connection failed or ended, from librdkafka's log.
    failure: Option<String>,
}

/// The kind of request that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A connection: its TLS or its credentials.
    Connection,
    /// The group.
    Group,
    /// A topic.
    Topic,
}

impl AuthContext {
    /// The credentials of the configuration.
    pub(super) fn new(kafka: &Kafka) -> Self {
        let token_file = (!kafka.oauth_token_file.is_empty()).then(|| PathBuf::from(&kafka.oauth_token_file));
        Self { token_file, credentials: Credentials::new(kafka), ..Self::default() }
    }

    /// Passes the present user and password from their files to the client whose context this is.
    pub(super) fn renew<C: ClientContext>(&self, client: &Client<C>) {
        self.credentials.renew(client);
    }

    /// Returns `true` if the client still needs a token before any request.
    pub(super) fn waits_for_token(&self) -> bool {
        self.token_file.is_some() && !self.has_token.load(Ordering::Acquire)
    }

    /// Records an error that librdkafka reports by itself. Returns the explanation if it is a refusal.
    pub(super) fn record_error(&self, error: &KafkaError, reason: &str) -> Option<String> {
        let code = error.rdkafka_error_code()?;
        let ended = failed_handshake(code, reason).map(|advice| (Refused::Connection, advice));
        let (refused, advice) = ended.or_else(|| refusal(code))?;
        let text = format!("{advice}: {}", escaped(reason));
        let mut refusals = self.lock();
        match refused {
            Refused::Connection => refusals.connection = Some(text.clone()),
            Refused::Group => refusals.group = Some(text.clone()),
            Refused::Topic => {}
        }
        Some(text)
    }

    /// The last refusal that no success has followed.
    pub(super) fn refused(&self) -> Option<String> {
        let refusals = self.lock();
        refusals.connection.as_ref().or(refusals.group.as_ref()).cloned()
    }

    /// Records how a connection ended, which librdkafka reports only in its log.
    fn record_end(&self, facility: &str, message: &str) {
        if facility == "FAIL" {
            let mut refusals = self.lock();
            refusals.end = message.contains(": Disconnected").then(|| message.to_owned());
            refusals.failure = Some(of_broker(message).to_owned());
        }
    }

    /// Returns the reason why the last connection failed or ended; `None` if a request succeeded since.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Returns the end of the last connection by a broker, if no request succeeded since.
    pub(super) fn end(&self) -> Option<String> {
        self.lock().end.clone()
    }

    /// Returns `true` if the brokers refuse connections, or have ended the last one.
    pub(super) fn is_shut_out(&self) -> bool {
        let refusals = self.lock();
        refusals.connection.is_some() || refusals.end.is_some()
    }

    /// Records that a request of this kind succeeded, and forgets its refusal.
    pub(super) fn record_success(&self, what: Refused) {
        let mut refusals = self.lock();
        refusals.connection = None;
        refusals.end = None;
        refusals.failure = None;
        if what == Refused::Group {
            refusals.group = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the present token from its file.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn StdError>> {
        let file = self.token_file.as_ref().ok_or("kafka.oauth_token_file is not set")?;
        let token = read_token(file, Timestamp::now().as_millisecond())?;
        self.has_token.store(true, Ordering::Release);
        Ok(token)
    }
}

/// librdkafka's log line without the name of its thread.
fn of_broker(message: &str) -> &str {
    message.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(message, |(_, rest)| rest)
}

/// The kind of request that an error of librdkafka refuses, and what to do; `None` if it is not a refusal.
pub(super) fn refusal(code: RDKafkaErrorCode) -> Option<(Refused, &'static str)> {
    Some(match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => (
            Refused::Connection,
            "Kafka refuses this client's credentials; check sasl.mechanism, sasl.username and sasl.password of \
             kafka.properties, or kafka.oauth_token_file",
        ),
        RDKafkaErrorCode::SSL => (
            Refused::Connection,
            "TLS with Kafka's brokers fails; check ssl.ca.location and the other ssl properties of kafka.properties",
        ),
        RDKafkaErrorCode::GroupAuthorizationFailed => (
            Refused::Group,
            "Kafka refuses the consumer group; allow this client's user to READ the group of kafka.group_id",
        ),
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            (Refused::Topic, "Kafka refuses a topic; allow this client's user to READ and DESCRIBE both topics")
        }
        _ => return None,
    })
}

/// Explains why the group does not let a worker join, and what to do; `None` if the error says something else.
pub(super) fn group_refusal(code: RDKafkaErrorCode, kafka: &Kafka) -> Option<String> {
    let group = &kafka.group_id;
    let text = match code {
        RDKafkaErrorCode::GroupAuthorizationFailed => refusal(code)?.1.to_owned(),
        RDKafkaErrorCode::InconsistentGroupProtocol => format!(
            "another member of the group {group} uses another partition assignor than cooperative-sticky, or is not a \
             consumer; stop it, or set kafka.group_id to a group for these workers only"
        ),
        RDKafkaErrorCode::InvalidSessionTimeout => format!(
            "kafka.session_timeout_ms = {} is outside what the brokers allow; set it to at least their \
             group.min.session.timeout.ms (6000 by default), and at most their group.max.session.timeout.ms",
            kafka.session_timeout_ms
        ),
        RDKafkaErrorCode::GroupMaxSizeReached => format!(
            "the group {group} has as many members as the brokers allow; stop some, or raise the brokers' group.max.size"
        ),
        RDKafkaErrorCode::FencedInstanceId => {
            format!("another member of the group {group} has the same group.instance.id; this worker sets none")
        }
        RDKafkaErrorCode::InvalidGroupId => format!("the brokers do not accept kafka.group_id = {group:?}"),
        RDKafkaErrorCode::UnsupportedVersion => {
            format!(
                "the brokers, or the members of the group {group}, do not know the classic protocol of consumer groups"
            )
        }
        _ => return None,
    };
    Some(format!("{text} ({code})"))
}

/// Explains a failed handshake from librdkafka's message, and what to do; `None` if it is ambiguous.
fn failed_handshake(code: RDKafkaErrorCode, reason: &str) -> Option<&'static str> {
    let says = |any: &[&str]| any.iter().any(|words| reason.contains(words));
    if code == RDKafkaErrorCode::Authentication && says(&["not valid in current SASL state"]) {
        return Some(
            "The listener takes no SASL; set security.protocol of kafka.properties to PLAINTEXT or SSL, or kafka.brokers to a \
             listener with SASL",
        );
    }
    if !matches!(code, RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::SSL) {
        return None;
    }
    if says(&["connecting to a PLAINTEXT broker listener?", "wrong version number"]) {
        Some("Kafka answers no TLS, as listeners without it do; check security.protocol of kafka.properties")
    } else if says(&["alert"]) && says(&["certificate", "unknown ca", "handshake failure"]) {
        Some(
            "Kafka does not accept this client's certificate, or asks for one; check ssl.certificate.location and \
             ssl.key.location of kafka.properties",
        )
    } else {
        None
    }
}

/// Reads the token from its file. The times and the name of a JWT are its own claims, which the brokers verify, not this
/// client.
fn read_token(file: &Path, now_ms: i64) -> Result<OAuthToken, Box<dyn StdError>> {
    let of_file = |what: &str| format!("kafka.oauth_token_file: {} {what}", file.display());
    let text = read_secret(file).map_err(|error| of_file(&format!("cannot be read: {error}")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(of_file("is empty").into());
    }
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    let claims: serde_json::Value =
        claims.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or(serde_json::Value::Null);
    let lifetime_ms = match claims["exp"].as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "a time far beyond i64 is as good as the last one")]
        Some(seconds) => (seconds * 1000.0) as i64,
        None => now_ms + TOKEN_LIFETIME_MS,
    };
    if lifetime_ms <= now_ms {
        return Err(of_file("has a token that has expired: see what renews it").into());
    }
    let principal_name = claims["sub"].as_str().unwrap_or_default().to_owned();
    Ok(OAuthToken { token: token.to_owned(), principal_name, lifetime_ms })
}

/// Logs a line of librdkafka, which it repeats at each attempt to connect. Lines that also arrive as errors are logged as
/// errors.
pub(super) fn log(limit: &LogLimit, level: RDKafkaLogLevel, facility: &str, message: &str) {
    let is_serious = match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => true,
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => false,
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => return debug!(facility, message, "librdkafka"),
    };
    if facility == CONNECTION {
        return debug!(facility, message, "librdkafka");
    }
    let (broker, what) = broker_and_failure(message.split_once("]: ").map_or(message, |(_, text)| text));
    let Some(repeated) = limit.lasts(&format!("{facility} {broker}"), what) else { return };
    let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
    if is_serious {
        warn!(facility, message, seconds, unlogged, "librdkafka");
    } else {
        tracing::info!(facility, message, seconds, unlogged, "librdkafka");
    }
}

/// Returns the address of the broker in a line of librdkafka, empty if there is none, and what happened to it, without the
/// state of the connection and the count of repetitions. The same broker has several names: `host:port/1`,
/// `host:port/bootstrap`, and `GroupCoordinator: host:port`.
pub(super) fn broker_and_failure(text: &str) -> (&str, &str) {
    let text = text.split_once(" (after ").map_or(text, |(text, _)| text);
    let rest = text.strip_prefix("GroupCoordinator: ").unwrap_or(text);
    let Some((name, what)) = rest.split_once(": ") else { return ("", text) };
    let name = name.rsplit_once("://").map_or(name, |(_, name)| name);
    let address = name.split_once('/').map_or(name, |(address, _)| address);
    if address.contains(':') { (address, what) } else { ("", text) }
}

impl ClientContext for AuthContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.record_end(facility, message);
        // The consumer reports the same, at a higher level.
        debug!(facility, message, "librdkafka, outside the consumer");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        drop(self.record_error(&error, reason));
        debug!(%error, reason, "librdkafka reports an error outside the consumer");
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        self.token()
    }
}

impl ConsumerContext for AuthContext {}

impl ProducerContext for AuthContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::Config;

    fn token_of(text: &str) -> Result<OAuthToken, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read_token(file.path(), 1_000_000).map_err(|error| error.to_string())
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.sig\n", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_tokens_own_claims_say_whose_it_is_and_how_long_it_is_good() {
        let token = token_of(&jwt(r#"{"sub":"worker","exp":1001.5}"#)).unwrap();
        assert_eq!((token.principal_name.as_str(), token.lifetime_ms), ("worker", 1_001_500));
        assert!(token.token.ends_with(".sig"), "without the line's end");
        let opaque = token_of("opaque").unwrap();
        assert_eq!((opaque.principal_name.as_str(), opaque.lifetime_ms), ("", 1_000_000 + TOKEN_LIFETIME_MS));
    }

    #[test]
    fn a_token_that_is_of_no_use_is_not_sent() {
        assert!(token_of(&jwt(r#"{"exp":1000}"#)).is_err_and(|text| text.contains("has expired")));
        assert!(token_of("\n").is_err_and(|text| text.contains("is empty")));
        let missing = read_token(Path::new("/nowhere/token"), 0).err().unwrap().to_string();
        assert!(missing.contains("/nowhere/token cannot be read"), "{missing}");
        assert!(token_of(&"x".repeat(1 << 20)).is_ok());
        assert!(token_of(&"x".repeat((1 << 20) + 1)).is_err_and(|text| text.contains("more than 1048576 bytes")));
    }

    #[test]
    fn the_side_that_ended_a_handshake_is_known_by_its_alert() {
        let advice = |reason| failed_handshake(RDKafkaErrorCode::BrokerTransportFailure, reason);
        let alert =
            "Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116";
        assert!(advice(alert).unwrap().contains("this client's certificate"));
        assert_eq!(advice("SSL handshake failed: error:0A000086:SSL routines::certificate verify failed"), None);
        assert!(
            advice("SSL handshake failed: error:0A00010B:SSL routines::wrong version number")
                .unwrap()
                .contains("no TLS")
        );
        let no_sasl = "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state";
        assert!(failed_handshake(RDKafkaErrorCode::Authentication, no_sasl).unwrap().contains("takes no SASL"));
        assert_eq!(
            failed_handshake(RDKafkaErrorCode::Authentication, "SASL authentication error: wrong password"),
            None
        );
        assert_eq!(advice("Connect to ipv4#127.0.0.1:1 failed: Connection refused"), None);
    }

    #[test]
    fn a_broker_is_the_same_by_all_its_names() {
        let refused = "Connect to ipv4#127.0.0.1:9092 failed: Connection refused";
        for name in ["b:9092/1", "b:9092/bootstrap", "GroupCoordinator: b:9092", "sasl_ssl://b:9092/2"] {
            for end in
                ["", " (after 0ms in state CONNECT)", " (after 3ms in state CONNECT, 5 identical error(s) suppressed)"]
            {
                assert_eq!(broker_and_failure(&format!("{name}: {refused}{end}")), ("b:9092", refused));
            }
        }
        let topic = "Subscribed topic not available: t: Broker: Unknown topic or partition";
        assert_eq!(broker_and_failure(topic), ("", topic));
        assert_eq!(broker_and_failure("1/1 brokers are down"), ("", "1/1 brokers are down"));
    }

    #[test]
    fn each_refusal_of_the_group_says_what_to_do() {
        let kafka = Config::load(None, []).unwrap().kafka;
        for (code, says) in [
            (RDKafkaErrorCode::InconsistentGroupProtocol, "another partition assignor"),
            (RDKafkaErrorCode::InvalidSessionTimeout, "group.min.session.timeout.ms"),
            (RDKafkaErrorCode::GroupAuthorizationFailed, "READ the group"),
            (RDKafkaErrorCode::GroupMaxSizeReached, "group.max.size"),
            (RDKafkaErrorCode::FencedInstanceId, "group.instance.id"),
            (RDKafkaErrorCode::InvalidGroupId, "kafka.group_id"),
        ] {
            let reason = group_refusal(code, &kafka).unwrap();
            assert!(reason.contains(says), "{reason}");
        }
        for passing in [RDKafkaErrorCode::RebalanceInProgress, RDKafkaErrorCode::AllBrokersDown] {
            assert_eq!(group_refusal(passing, &kafka), None);
        }
    }

    #[test]
    fn a_refusal_lasts_until_the_same_is_granted() {
        let login = AuthContext::default();
        let refused = |code| KafkaError::Global(code);
        assert!(login.record_error(&refused(RDKafkaErrorCode::OperationTimedOut), "slow").is_none());
        assert!(login.record_error(&refused(RDKafkaErrorCode::GroupAuthorizationFailed), "g").is_some());
        assert!(login.record_error(&refused(RDKafkaErrorCode::Authentication), "a\nb").unwrap().contains("a\\nb"));
        assert!(login.refused().unwrap().contains("credentials"));
        login.record_success(Refused::Topic);
        assert!(login.refused().unwrap().contains("group"), "answers about topics say nothing of the group");
        login.record_success(Refused::Group);
        assert_eq!(login.refused(), None);
        login.record_end("FAIL", "a:1/1: Disconnected: connection closed by peer");
        assert!(login.is_shut_out());
        login.record_end("FAIL", "a:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused");
        assert!(!login.is_shut_out(), "the broker is away, and not for what the last connection was");
    }
}
