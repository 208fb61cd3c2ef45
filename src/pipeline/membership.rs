//! When this worker joins the consumer group.
//!
//! A worker that was killed stays a member until its session ends. A worker that joins meanwhile waits for that, and if it is
//! killed in turn, the group hands partitions to it and waits for its session as well: each kill adds one session. So a worker
//! joins a group at once only while the group has no members, and otherwise after the time in which a dead member is removed:
//! one session, however many workers were killed. If the members are alive, they read all partitions meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use crate::config::Kafka;
use crate::kafka::consumer::ConsumerHandle;
use crate::kafka::events::Command;
use crate::kafka::lookup::Lookup;
use crate::telemetry::health::Health;

/// The condition while the worker waits before it joins its group.
const CONDITION: &str = "group";
/// How often the group is asked for its members.
const INTERVAL: Duration = Duration::from_millis(500);

/// Has the consumer join the group when it is time.
pub(super) async fn join(kafka: Kafka, lookup: Arc<Lookup>, consumer: ConsumerHandle, health: Arc<Health>) {
    let group = &kafka.group_id;
    let session = Duration::from_millis(kafka.session_timeout_ms);
    // The broker counts from the last heartbeat, which was before the member's end.
    let deadline = Instant::now() + session + INTERVAL;
    let mut logged = false;
    loop {
        let members = members(&lookup, group).await;
        if members == Some(0) || Instant::now() >= deadline {
            break;
        }
        if let Some(members) = members {
            let seconds = session.as_secs();
            if !logged {
                info!(
                    group,
                    members,
                    "the consumer group has members, one of which may be a worker that was killed; waiting for at most \
                     {seconds} s before joining it"
                );
                logged = true;
            }
            let reason = format!(
                "the consumer group {group} has {members} members, one of which may be a worker that was killed: this \
                 worker joins it after at most {seconds} s"
            );
            health.set_condition(CONDITION, Some(reason));
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + INTERVAL)).await;
    }
    info!(group, "joining the consumer group");
    // From now on the sign of readiness of the same name tells whether the group lets it join, and why not.
    health.set_condition(CONDITION, None);
    consumer.send(Command::Join);
}

/// The number of the group's members; `None` if the brokers do not answer.
async fn members(lookup: &Arc<Lookup>, group: &str) -> Option<usize> {
    let (lookup, group) = (Arc::clone(lookup), group.to_owned());
    match tokio::task::spawn_blocking(move || lookup.group_members(&group)).await {
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
