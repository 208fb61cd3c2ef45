//! The number of locks that a query over all chunks takes.

use super::{Need, Rule};

/// PostgreSQL has room for `max_locks_per_transaction` locks a session on average, for all sessions together. A query without
/// a limit of time locks each chunk and each of its indexes, and a compressed chunk's data as well.
pub(super) const TOO_FEW: Rule = Rule { name: "locks", need: Need::Hypertable, hidden: None, sql: SQL };

const SQL: &str = r"
with total as (
    select count(*) as chunks,
        sum(1 + (select count(*) from pg_index where indrelid = relid) + case when is_compressed then 3 else 0 end) as locks,
        current_setting('max_locks_per_transaction')::bigint as max_locks_per_transaction,
        current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint as sessions
    from {parts} as part
)
select format('a query over all %s chunks takes %s locks, and the server has room for %s: two at a time fail with out of shared '
        'memory', chunks, locks, max_locks_per_transaction * sessions) as what,
    format('alter system set max_locks_per_transaction = %s, and restart the server; or have fewer chunks by a larger '
        'database.chunk_interval_s', (ceil(locks * 4.0 / sessions / 64) * 64)::bigint) as change,
    chunks, locks, max_locks_per_transaction, max_locks_per_transaction * sessions as room
from total where locks * 2 > max_locks_per_transaction * sessions";
