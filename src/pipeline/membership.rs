//! When this worker joins the consumer group, and the group's other members.
//!
//! A worker that was killed stays a member until its session ends. A worker that joins meanwhile waits for that, and if it is
//! killed in turn, the group hands partitions to it and waits for its session as well: each kill adds one session. So a worker
//! joins a group at once only while the group has no members, and otherwise after the time in which a dead member is removed:
//! one session, however many workers were killed. If the members are alive, they read all partitions meanwhile.
//!
//! A group that has members of another pipeline or database is not joined: the other pipeline would lose the partitions that
//! this worker gets. If both are members because they joined at the same time, both report it and are not ready.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info};

use crate::config::Config;
use crate::database::Database;
use crate::kafka::consumer::ConsumerHandle;
use crate::kafka::events::Command;
use crate::kafka::lookup::{GroupMembers, Lookup};
use crate::kafka::member::Member;
use crate::telemetry::health::Health;
use crate::telemetry::log_limit::LogLimit;

/// The condition while the worker waits before it joins its group.
const CONDITION: &str = "group";
/// The condition while the group has members of another pipeline or database.
const SHARED: &str = "group_shared";
/// Interval between requests for the group's members before it is joined.
const JOIN_INTERVAL: Duration = Duration::from_millis(500);
/// Interval after that.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// This worker's place in its consumer group.
#[derive(Debug)]
pub(super) struct Membership {
    config: Arc<Config>,
    lookup: Arc<Lookup>,
    database: Database,
    consumer: ConsumerHandle,
    health: Arc<Health>,
    member: Member,
    /// The consumer's present name in the group.
    named: Member,
    joined: bool,
    /// Time since which the group has members of another pipeline or database.
    shared_since: Option<Instant>,
    log: LogLimit,
}

impl Membership {
    pub(super) fn new(
        config: &Arc<Config>,
        lookup: &Arc<Lookup>,
        database: &Database,
        (consumer, member): (&ConsumerHandle, Member),
        health: &Arc<Health>,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            lookup: Arc::clone(lookup),
            database: database.clone(),
            consumer: consumer.clone(),
            health: Arc::clone(health),
            named: member.clone(),
            member,
            joined: false,
            shared_since: None,
            log: LogLimit::default(),
        }
    }

    /// Has the consumer join the group when it is time, and watches the group until dropped.
    pub(super) async fn keep(mut self) {
        self.join().await;
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            self.rename();
            if let Some(members) = self.members().await {
                self.set_shared(members.shared);
            }
        }
    }

    /// The time after which a killed member has left the group. The broker counts from the last heartbeat, which was before the
    /// member's end.
    fn longest_death(&self) -> Duration {
        Duration::from_millis(self.config.kafka.session_timeout_ms) + JOIN_INTERVAL
    }

    async fn join(&mut self) {
        let group = self.config.kafka.group_id.clone();
        let deadline = Instant::now() + self.longest_death();
        loop {
            self.rename();
            let members = self.members().await;
            let shared = members.as_ref().and_then(|members| members.shared.clone());
            let is_shared = shared.is_some();
            if members.is_some() {
                self.set_shared(shared);
            }
            let is_late = Instant::now() >= deadline;
            if members.as_ref().is_some_and(|members| members.count == 0) || is_late && !is_shared {
                break;
            }
            match members {
                Some(members) if !is_late => self.report_waiting(members.count),
                _ if is_late => self.health.set_condition(CONDITION, None),
                _ => {}
            }
            tokio::time::sleep(JOIN_INTERVAL).await;
        }
        self.set_shared(None);
        self.joined = true;
        info!(group, "joining the consumer group");
        // From now on the readiness condition of the same name shows whether the group lets it join, and why not.
        self.health.set_condition(CONDITION, None);
        self.consumer.send(Command::Join);
    }

    fn report_waiting(&self, members: usize) {
        let group = &self.config.kafka.group_id;
        let seconds = self.config.kafka.session_timeout_ms / 1000;
        let reason = format!(
            "the consumer group {group} has {members} members, and one may be a worker that was killed: this worker joins \
             it after at most {seconds} s"
        );
        if self.log.lasts(CONDITION, CONDITION).is_some() {
            info!(
                group,
                members,
                "the consumer group has members, and one may be a worker that was killed; waiting for at most {seconds} s \
                 before joining it"
            );
        }
        self.health.set_condition(CONDITION, Some(reason));
    }

    /// Records what is wrong with the group. A foreign member that was killed, or the consumer that had this worker's name
    /// before, stays a member for a while.
    fn set_shared(&mut self, shared: Option<String>) {
        let Some(reason) = shared else {
            self.shared_since = None;
            if let Some(ended) = self.log.ends(SHARED) {
                info!(
                    seconds = ended.seconds,
                    "the consumer group has no members of another pipeline or database any more"
                );
            }
            return self.health.set_condition(SHARED, None);
        };
        let since = *self.shared_since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.longest_death() {
            return;
        }
        if let Some(repeated) = self.log.lasts(SHARED, &reason) {
            error!(reason, seconds = repeated.seconds, "the consumer group is another pipeline's, too");
        }
        self.health.set_condition(SHARED, Some(reason));
    }

    /// Gives the consumer a new name in the group if the database has changed since it was named: what other members see must
    /// not be out of date. A name without a database is not worth a rebalance.
    fn rename(&mut self) {
        let Some(identity) = self.database.identity() else { return };
        self.member = Member::new(&self.config.pipeline, Some(identity));
        if self.member != self.named && (!self.joined || self.named.knows_database()) {
            self.named = self.member.clone();
            self.consumer.send(Command::Rename(self.member.clone()));
        }
    }

    /// The group's members; `None` if the brokers do not answer.
    async fn members(&self) -> Option<GroupMembers> {
        let (lookup, member) = (Arc::clone(&self.lookup), self.member.clone());
        match tokio::task::spawn_blocking(move || lookup.group_members(&member)).await {
            Ok(Ok(members)) => Some(members),
            Ok(Err(failure)) => {
                debug!(%failure, "the members of the consumer group are not known");
                None
            }
            Err(failure) => {
                debug!(%failure, "the question for the members of the consumer group ended early");
                None
            }
        }
    }
}
