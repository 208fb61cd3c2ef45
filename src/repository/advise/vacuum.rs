//! What autovacuum has not done.

use super::{Need, Rule};

/// More than twice the dead rows, or for a chunk that is complete the new rows, at which autovacuum should have begun.
pub(super) const DEAD_ROWS: Rule = Rule { name: "vacuum", need: Need::Tables, hidden: None, sql: ROWS };

/// Rows that were not frozen when autovacuum should have done it at the latest.
pub(super) const WRAPAROUND: Rule = Rule { name: "wraparound", need: Need::Tables, hidden: None, sql: AGE };

const ROWS: &str = r"
with option as (
    select relid, range_end, coalesce(reloptions, '{}') as reloptions, greatest(reltuples, 0) as rows,
        (select option_value from pg_options_to_table(reloptions) where option_name = 'autovacuum_vacuum_threshold') as threshold,
        (select option_value from pg_options_to_table(reloptions) where option_name = 'autovacuum_vacuum_scale_factor') as factor,
        (select option_value from pg_options_to_table(reloptions) where option_name = 'autovacuum_enabled') as enabled
    from {parts} as part join pg_class on pg_class.oid = relid
), part as (
    select relid, rows, n_dead_tup, n_ins_since_vacuum,
        coalesce(threshold, current_setting('autovacuum_vacuum_threshold'))::bigint
            + coalesce(factor, current_setting('autovacuum_vacuum_scale_factor'))::float8 * rows as dead_limit,
        current_setting('autovacuum_vacuum_insert_threshold')::bigint
            + current_setting('autovacuum_vacuum_insert_scale_factor')::float8 * rows as insert_limit,
        range_end < now() - interval '1 day' as is_complete,
        coalesce(enabled, current_setting('autovacuum'))::boolean as is_on
    from option join pg_stat_all_tables as stat using (relid)
), overdue as (
    select *, n_dead_tup > 2 * dead_limit and n_dead_tup > 10000 as has_dead,
        is_complete and n_ins_since_vacuum > 2 * insert_limit and n_ins_since_vacuum > 100000 as has_new
    from part
), total as (
    select count(*) as tables, sum(n_dead_tup) as dead_rows, sum(n_ins_since_vacuum) as new_rows,
        (array_agg(relid order by n_dead_tup + n_ins_since_vacuum desc))[1] as largest,
        count(*) filter (where not is_on) as switched_off
    from overdue where has_dead or has_new
)
select format('autovacuum is late on %s: it has %s dead rows, and %s new ones since its last VACUUM%s',
        case tables when 1 then largest::text else format('%s tables of the points, such as %s', tables, largest) end,
        dead_rows, new_rows, case when switched_off > 0 then ', and is switched off for it' else '' end) as what,
    case when switched_off > 0
        then format('vacuum (analyze) %s; alter table %s reset (autovacuum_enabled), or autovacuum = on', largest, largest)
        else format('vacuum (analyze) %s; and raise autovacuum_vacuum_cost_limit or autovacuum_max_workers, or lower '
            'autovacuum_vacuum_scale_factor', largest) end as change,
    tables, dead_rows, new_rows, switched_off
from total where tables > 0";

const AGE: &str = r"
with part as (
    select relid, age(relfrozenxid) as age, current_setting('autovacuum_freeze_max_age')::bigint as max_age
    from {parts} as part join pg_class on pg_class.oid = relid
), total as (
    select count(*) as tables, max(age) as age, max(max_age) as max_age, (array_agg(relid order by age desc))[1] as oldest
    from part where age > max_age * 1.1
)
select format('%s tables of the points, such as %s, are up to %s transactions old, and autovacuum should have frozen them at %s: '
        'at 2100 million the server stops writing', tables, oldest, age, max_age) as what,
    format('vacuum (freeze) %s; and look for what holds it up: old sessions in pg_stat_activity, prepared transactions, '
        'replication slots', oldest) as change,
    tables, age, max_age
from total where tables > 0";
