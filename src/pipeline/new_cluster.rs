//! The start of partitions that the pipeline has read in another cluster.

use tracing::{info, warn};

use crate::config::NewCluster;
use crate::database::{Elsewhere, NO_ISLANDS};

/// Returns why a partition that the pipeline has read in another cluster does not start in this one, given the group's offset
/// of it; `None` if it starts.
pub(crate) fn refused_move(rule: NewCluster, elsewhere: &Elsewhere, group_offset: Option<i64>) -> Option<String> {
    let Elsewhere { cluster_id, source_id, next_offset, ahead, .. } = elsewhere;
    let found = format!(
        "the pipeline has progress of it in another cluster ({cluster_id}, source {source_id}, next offset {next_offset}), \
         and none in this one"
    );
    match (rule, group_offset) {
        (NewCluster::GroupOffsets, Some(_)) if ahead != NO_ISLANDS => Some(format!(
            "{found}; {}. Run a worker on the other cluster until they are part of next_offset, or run `series-ingest progress \
             adopt --source {source_id} --group-offsets --accept-duplicates`",
            islands_elsewhere(ahead)
        )),
        (NewCluster::Start, _) | (NewCluster::GroupOffsets, Some(_)) => None,
        (NewCluster::GroupOffsets, None) => Some(format!(
            "{found}; the group has no offset of it here: sync the group's offsets, or run `series-ingest progress adopt \
             --source {source_id} --offsets …`"
        )),
        (NewCluster::Stop, _) => Some(format!(
            "{found}. If this cluster mirrors the other one, run `series-ingest progress adopt --source {source_id} \
             --group-offsets` or `--offsets …`; if it has other messages, set kafka.new_cluster = \"start\""
        )),
    }
}

/// Explains what the islands of another cluster's progress mean for a partition that continues here.
pub(crate) fn islands_elsewhere(ahead: &str) -> String {
    format!("offsets {ahead} above its next offset are applied there, and would be written again here")
}

/// Logs a start in a cluster other than before.
pub(super) fn log_move(rule: NewCluster, elsewhere: &Elsewhere, group_offset: Option<i64>) {
    let Elsewhere { partition, cluster_id, source_id, next_offset, .. } = elsewhere;
    match group_offset.filter(|_| rule == NewCluster::GroupOffsets) {
        Some(offset) => info!(
            cluster = cluster_id,
            source = source_id,
            partition,
            offset,
            "kafka.new_cluster = \"group-offsets\": goes on from another cluster at the group's offset"
        ),
        None => warn!(
            cluster = cluster_id,
            source = source_id,
            partition,
            next_offset,
            "kafka.new_cluster = \"start\": what was written from the other cluster is written again"
        ),
    }
}
