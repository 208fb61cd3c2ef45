//! The statements on the points that take long.

use super::{Need, Rule};

/// Statements that took at least a second on average, at least five times. COPY of windows and of batches may.
pub(super) const SLOW: Rule = Rule { name: "slow-statements", need: Need::Statements, hidden: Some(HIDDEN), sql: SQL };

const SQL: &str = r"
select format('a statement on the points took %s s on average, %s times: %s', round(mean_exec_time::numeric / 1000, 1), calls,
        left(regexp_replace(query, '\s+', ' ', 'g'), 300)) as what,
    'explain (analyze, buffers) it; limit its times, name series and column so that an index serves it, as in docs/reading.md, and '
        'keep aggregates of long spans in a table or a continuous aggregate' as change,
    calls, round(mean_exec_time::numeric) as mean_ms, round(total_exec_time::numeric) as total_ms, rows, queryid::text as queryid
from {statements}.pg_stat_statements
where dbid = (select oid from pg_database where datname = current_database()) and calls >= 5 and mean_exec_time >= 1000
    and query ~* 'time_series_data_points|series_' and query !~* '^\s*(copy|vacuum|analyze|create|alter|drop|call|do)\M'
order by total_exec_time desc limit 5";

const HIDDEN: &str = r"
select 'this role does not see statements of other roles: it is not a member of pg_read_all_stats'
where not pg_has_role('pg_read_all_stats', 'usage')";
