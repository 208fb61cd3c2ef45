//! Indexes of the points that are not read, or have more pages than they need.

use super::{Need, Rule};

/// Those of the profile `standard` are the subject of the rule of profiles. Where the points are hardly read, nothing is known.
pub(super) const NOT_READ: Rule = Rule { name: "unused-index", need: Need::Tables, hidden: None, sql: UNUSED };

/// A B-tree page that is emptied only in part is not used for other keys.
pub(super) const BLOATED: Rule = Rule { name: "bloated-index", need: Need::Tables, hidden: None, sql: BLOAT };

const UNUSED: &str = r"
with of_part as (
    select regexp_replace(pg_get_indexdef(pg_index.indexrelid), '^.* USING ', '') as form, indisunique, idx_scan,
        pg_relation_size(pg_index.indexrelid) as bytes
    from {parts} as part join pg_index on indrelid = relid
    left join pg_stat_all_indexes as stat on stat.indexrelid = pg_index.indexrelid
), form as (
    select form, bool_or(indisunique) as is_unique, coalesce(sum(idx_scan), 0) as reads, sum(bytes) as bytes,
        sum(coalesce(sum(idx_scan), 0)) over () as reads_of_all
    from of_part group by form
), own as (
    select indexrelid::regclass as index, regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') as form,
        (select relname from pg_class where oid = indexrelid) as name
    from pg_index where indrelid = {points}
)
select format('no query has read the index %s (%s), and the others were read %s times; each point that is written maintains it',
        index, form, reads_of_all) as what,
    format('drop index %s; first run the same statement on replicas, whose reads are counted there', index) as change,
    bytes, reads_of_all,
    (select stats_reset from pg_stat_database where datname = current_database()) as counted_since
from form join own using (form)
where reads = 0 and reads_of_all >= 1000 and not is_unique and bytes >= 1048576
    and name not in ('idx_time_series_data_points_timestamp', 'idx_time_series_data_points_series_column_time',
        'idx_time_series_data_points_series_time', 'idx_time_series_data_points_series_column')
order by bytes desc";

const BLOAT: &str = r"
with index as (
    select relid, pg_index.indexrelid::regclass as index, greatest(index_class.reltuples, 0) as rows,
        pg_relation_size(pg_index.indexrelid) as bytes,
        (select sum(coalesce(avg_width, 8)) from unnest(indkey::smallint[]) as key (attnum)
         join pg_attribute as attribute on attribute.attrelid = relid and attribute.attnum = key.attnum
         left join pg_stats on schemaname = nspname and tablename = part_class.relname
             and pg_stats.attname = attribute.attname) as width
    from {parts} as part join pg_class as part_class on part_class.oid = relid
    join pg_namespace on pg_namespace.oid = part_class.relnamespace
    join pg_index on indrelid = relid
    join pg_class as index_class on index_class.oid = pg_index.indexrelid
    where index_class.reltuples >= 0
), expected as (
    -- An entry has a header of 8 bytes and a pointer of 4, and pages are filled to two thirds.
    select *, (rows * (12 + (width + 7)) / 0.67)::bigint + 8192 * 2 as expected_bytes from index
)
select format('the index %s has %s, and its %s rows need about %s', index, pg_size_pretty(bytes), rows::bigint,
        pg_size_pretty(expected_bytes)) as what,
    format('reindex index concurrently %s', index) as change,
    bytes, expected_bytes, rows::bigint as rows
from expected where bytes >= 4194304 and bytes > 4 * expected_bytes
order by bytes - expected_bytes desc limit 10";
