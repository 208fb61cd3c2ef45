//! Requests about topics and offsets, sent by their own client so that the consumer's thread never waits for an answer. All
//! calls block for up to [`TIMEOUT`]: call them where blocking is allowed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigEntry, ResourceSpecifier};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::groups::{GroupList, GroupMemberInfo};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

use super::auth::{self, AuthContext, Refused, refusal};
use super::diagnosis;
use super::member::Member;
use super::partition::{LogRange, TopicPartition};
use super::settings;
use crate::config::Kafka;
use crate::telemetry::escaped;

/// Timeout of one request.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of the request for a group's members, which is soon repeated.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(2);
/// The type of a group of consumers, in the group protocol.
const CONSUMER: &str = "consumer";
/// Timeout of the request for the addresses of the brokers, which any of them answers.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout for librdkafka to request the first token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for requests.
pub struct Lookup {
    client: BaseConsumer<AuthContext>,
    pub(super) kafka: Kafka,
    pub(super) answered: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").finish_non_exhaustive()
    }
}

impl Lookup {
    /// A client for the configured brokers; it connects at the first request.
    ///
    /// # Errors
    /// If librdkafka refuses a property.
    pub fn new(kafka: &Kafka) -> Result<Self, KafkaError> {
        let mut properties = settings::client(kafka);
        properties.set("isolation.level", "read_committed");
        // The ends of connections are logged at this level.
        properties.set_log_level(RDKafkaLogLevel::Info);
        // It requests the group's offsets, and never joins the group.
        properties.set("group.id", &kafka.group_id);
        properties.set("enable.auto.commit", "false");
        let client = properties.create_with_context(AuthContext::new(kafka)).map_err(settings::without_value)?;
        Ok(Self { client, kafka: kafka.clone(), answered: Mutex::default() })
    }

    /// When a broker last described topics, or refused to.
    pub fn answered(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Explains why a request was not answered, and what to do; `None` if the error is the brokers' answer.
    pub fn silence(&self, error: &KafkaError) -> Option<String> {
        if !is_silence(error) {
            return None;
        }
        Some(
            self.refused()
                .or_else(|| diagnosis::of_advertised(&self.kafka, &self.advertised()?))
                .or_else(|| self.failure())
                .unwrap_or_else(|| error.to_string()),
        )
    }

    /// Returns the reason why the last connection failed or ended, from librdkafka; `None` if a request succeeded since.
    pub fn failure(&self) -> Option<String> {
        self.client.context().failure()
    }

    /// The addresses of the brokers as one of them advertises them; `None` if none answers. This takes a new client: once
    /// librdkafka has an address of a broker, it no longer uses the configured one.
    fn advertised(&self) -> Option<Vec<(String, u16)>> {
        let client: BaseConsumer<AuthContext> =
            settings::client(&self.kafka).create_with_context(AuthContext::new(&self.kafka)).ok()?;
        let metadata = client.client().fetch_metadata(self.any_topic(), METADATA_TIMEOUT).ok()?;
        let address = |host: &str, port: i32| Some((host.to_owned(), u16::try_from(port).ok()?));
        Some(metadata.brokers().iter().filter_map(|broker| address(broker.host(), broker.port())).collect())
    }

    /// Returns why the group would not let this worker join, each reason with its configuration key; it does not join the
    /// group. Facts that this client may not request are omitted. To be called on a blocking thread of tokio.
    pub fn group_problems(&self, own: &Member) -> Vec<(&'static str, String)> {
        let kafka = &self.kafka;
        let mut problems = Vec::new();
        let mut problem = |key, code, fact: String| {
            problems.extend(auth::group_refusal(code, kafka).map(|text| (key, format!("{text}; {fact}"))));
        };
        let limits = self.group_limits();
        let limit = |name: &str| limits.as_ref()?.get(name)?.value.as_ref()?.parse::<u64>().ok();
        if let (Some(minimum), Some(maximum)) =
            (limit("group.min.session.timeout.ms"), limit("group.max.session.timeout.ms"))
            && !(minimum..=maximum).contains(&kafka.session_timeout_ms)
        {
            let fact = format!("theirs are {minimum} and {maximum}");
            problem("kafka.session_timeout_ms", RDKafkaErrorCode::InvalidSessionTimeout, fact);
        }
        let groups = self.ask(Refused::Group, |client| client.fetch_group_list(Some(&kafka.group_id), TIMEOUT));
        for group in groups.iter().flat_map(|groups| groups.groups()) {
            let members = group.members().len() as u64;
            let is_consumer = group.protocol_type() == CONSUMER;
            let theirs = if is_consumer { group.protocol() } else { group.protocol_type() };
            // It is empty until the members agree on one.
            if members > 0 && !theirs.is_empty() && !(is_consumer && theirs == settings::ASSIGNOR) {
                let fact = format!("its {members} members use {theirs}");
                problem("kafka.group_id", RDKafkaErrorCode::InconsistentGroupProtocol, fact);
            }
            if let Some(limit) = limit("group.max.size")
                && members >= limit
            {
                let fact = format!("it has {members}, and they allow {limit}");
                problem("kafka.group_id", RDKafkaErrorCode::GroupMaxSizeReached, fact);
            }
        }
        let strangers = groups.iter().flat_map(|groups| strangers(groups, own)).collect();
        problems.extend(self.shared_by(strangers).map(|text| ("kafka.group_id", text)));
        problems
    }

    /// Describes the problem of a group that has members of other pipelines or databases; `None` if there are none.
    fn shared_by(&self, mut strangers: Vec<String>) -> Option<String> {
        strangers.sort();
        strangers.dedup();
        (!strangers.is_empty()).then(|| {
            format!(
                "the consumer group {} has members of another pipeline or database: {}. They and this worker would each read \
                 some of the partitions, and none of them all: give each pipeline, and each database, its own \
                 kafka.group_id",
                self.kafka.group_id,
                strangers.join(", ")
            )
        })
    }

    /// The brokers' limits for groups and their members.
    fn group_limits(&self) -> Option<HashMap<String, ConfigEntry>> {
        let metadata = self.client.client().fetch_metadata(self.any_topic(), METADATA_TIMEOUT).ok()?;
        let broker = ResourceSpecifier::Broker(metadata.brokers().first()?.id());
        let admin: AdminClient<AuthContext> =
            settings::client(&self.kafka).create_with_context(AuthContext::new(&self.kafka)).ok()?;
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let described = Handle::current().block_on(admin.describe_configs([&broker], &options)).ok()?;
        let entries = described.into_iter().next()?.ok()?.entries;
        Some(entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect())
    }

    /// Explains why the brokers do not let this client do its work, after a request failed with this error; `None` if it failed
    /// for another reason.
    pub fn refusal(&self, error: &KafkaError) -> Option<String> {
        if let Some((_, advice)) = code_of(error).and_then(refusal) {
            return Some(format!("{advice}: {error}"));
        }
        self.refused()
    }

    /// The brokers' last refusal that no success has followed.
    pub fn refused(&self) -> Option<String> {
        let login = self.client.context();
        let Some(refused) = login.refused() else { return diagnosis::of_end(&self.kafka, &login.end()?) };
        Some(match diagnosis::of_certificate(&self.kafka, &refused) {
            Some(words) => format!("{words}. {refused}"),
            None => refused,
        })
    }

    /// Returns `true` if the brokers refuse connections, or have ended the last one: a further request would most likely time
    /// out.
    pub fn is_shut_out(&self) -> bool {
        self.client.context().is_shut_out()
    }

    /// Sends a request. Nothing else polls this client, so librdkafka's own events are handled before and after.
    pub(super) fn ask<T>(
        &self,
        what: Refused,
        question: impl FnOnce(&BaseConsumer<AuthContext>) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        let login = self.client.context();
        login.renew(self.client.client());
        let deadline = Instant::now() + TOKEN_TIMEOUT;
        self.listen(Duration::from_millis(1));
        while login.waits_for_token() && login.refused().is_none() && Instant::now() < deadline {
            self.listen(Duration::from_millis(50));
        }
        let answer = question(&self.client);
        match answer.as_ref().map_err(code_of) {
            Ok(_) => login.record_success(what),
            // A broker that answers this has accepted the client.
            Err(Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition,
            )) => login.record_success(Refused::Connection),
            Err(_) => self.listen(Duration::from_millis(50)),
        }
        answer
    }

    /// Handles librdkafka's events for as long as `wait`; the context records those that matter.
    fn listen(&self, wait: Duration) {
        while self.client.poll(wait).is_some() {}
    }

    /// The cluster's id; `None` if the brokers do not answer.
    pub fn cluster_id(&self) -> Option<String> {
        let id = |client: &BaseConsumer<AuthContext>| {
            let id = client.client().fetch_cluster_id(TIMEOUT);
            id.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut))
        };
        self.ask(Refused::Connection, id).ok()
    }

    /// The range of offsets of each partition; partitions whose leader does not answer are omitted.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn log_ranges(&self, partitions: &[TopicPartition]) -> Result<HashMap<TopicPartition, LogRange>, KafkaError> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        let starts = self.list_offsets(partitions, Offset::Beginning)?;
        let ends = self.list_offsets(partitions, Offset::End)?;
        Ok(starts
            .into_iter()
            .filter_map(|(partition, start)| {
                let end = *ends.get(&partition)?;
                Some((partition, LogRange { start, end: end.max(start) }))
            })
            .collect())
    }

    /// The offsets that the group has committed; partitions without one are omitted.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn committed(&self, partitions: &[TopicPartition]) -> Result<HashMap<TopicPartition, i64>, KafkaError> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        let mut question = TopicPartitionList::with_capacity(partitions.len());
        for TopicPartition { topic, number } in partitions {
            question.add_partition(topic, *number);
        }
        Ok(offsets(&self.ask(Refused::Group, |client| client.committed_offsets(question, TIMEOUT))?))
    }

    /// Returns the members of this worker's group.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn group_members(&self, own: &Member) -> Result<GroupMembers, KafkaError> {
        let group = &self.kafka.group_id;
        // A group that this client may not read appears without members and without an error, so an answer does not prove the
        // right.
        let groups = self.ask(Refused::Connection, |client| client.fetch_group_list(Some(group), MEMBERS_TIMEOUT))?;
        Ok(GroupMembers {
            count: groups.groups().iter().map(|group| group.members().len()).sum(),
            shared: self.shared_by(strangers(&groups, own)),
        })
    }

    fn list_offsets(
        &self,
        partitions: &[TopicPartition],
        which: Offset,
    ) -> Result<HashMap<TopicPartition, i64>, KafkaError> {
        let mut question = TopicPartitionList::with_capacity(partitions.len());
        for TopicPartition { topic, number } in partitions {
            question.add_partition_offset(topic, *number, which)?;
        }
        Ok(offsets(&self.ask(Refused::Topic, |client| client.offsets_for_times(question, TIMEOUT))?))
    }
}

/// The members of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMembers {
    /// Number of members; 0 if there is no such group.
    pub count: usize,
    /// The problem, if some of them work for another pipeline or database.
    pub shared: Option<String>,
}

/// The members that work for another pipeline or database.
fn strangers(groups: &GroupList, own: &Member) -> Vec<String> {
    let members = groups.groups().iter().flat_map(|group| group.members());
    let describe = |member: &GroupMemberInfo| {
        let stranger = own.stranger(member.client_id())?;
        Some(escaped(&format!("{stranger} at {}", member.client_host())).to_string())
    };
    members.filter_map(describe).collect()
}

/// Returns `true` if an error says that a topic does not exist.
pub fn is_missing_topic(error: &KafkaError) -> bool {
    code_of(error) == Some(RDKafkaErrorCode::UnknownTopicOrPartition)
}

/// Returns `true` if an error says that no broker has answered.
pub(super) fn is_silence(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code_of(error),
        None | Some(
            Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::TimedOutQueue
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::BrokerNotAvailable
                | Code::WaitingForCoordinator
                | Code::SSL
                | Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::BrokerDestroy
        )
    )
}

/// The code of an error of librdkafka; rdkafka omits it for admin requests.
fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// The offsets of a list, without partitions that have an error or no offset.
fn offsets(list: &TopicPartitionList) -> HashMap<TopicPartition, i64> {
    list.elements()
        .iter()
        .filter(|element| element.error().is_ok())
        .filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((TopicPartition::new(element.topic(), element.partition()), offset)),
            _ => None,
        })
        .collect()
}
