//! The profile of the points that fits how they are read.

use super::{Need, Rule};

/// The indexes that only the profile `standard` has are not read.
pub(super) const STANDARD: Rule = Rule { name: "profile", need: Need::Tables, hidden: None, sql: FROM_STANDARD };

/// Reads scan whole chunks, because the indexes that they would use are those of the profile `standard`.
pub(super) const THROUGHPUT: Rule =
    Rule { name: "profile-reads", need: Need::Tables, hidden: None, sql: FROM_THROUGHPUT };

const FROM_STANDARD: &str = r#"
with of_part as (
    select regexp_replace(pg_get_indexdef(pg_index.indexrelid), '^.* USING ', '') as form, idx_scan,
        pg_relation_size(pg_index.indexrelid) as bytes
    from {parts} as part join pg_index on indrelid = relid
    left join pg_stat_all_indexes as stat on stat.indexrelid = pg_index.indexrelid
), form as (
    select form, coalesce(sum(idx_scan), 0) as reads, sum(bytes) as bytes from of_part group by form
), own as (
    select relname as name, regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') as form
    from pg_index join pg_class on pg_class.oid = indexrelid where indrelid = {points}
), total as (
    select count(*) filter (where is_extra) as extra, sum(reads) filter (where is_extra) as extra_reads,
        sum(bytes) filter (where is_extra) as extra_bytes, sum(reads) as reads, sum(bytes) as bytes
    from (select *, name in ('time_series_data_points_pkey', 'idx_time_series_data_points_series_time',
              'idx_time_series_data_points_series_column') as is_extra from form join own using (form)) as named
)
select format('the three indexes that only the profile standard has take %s of %s, and none of %s reads has used them: without '
        'them points are written several times as fast', pg_size_pretty(extra_bytes), pg_size_pretty(bytes), reads) as what,
    'series-ingest schema set-profile throughput; first run the same statement on replicas, whose reads are counted there' as change,
    extra_bytes, bytes, reads,
    (select stats_reset from pg_stat_database where datname = current_database()) as counted_since
from total where extra = 3 and extra_reads = 0 and reads >= 1000 and extra_bytes >= 1048576"#;

const FROM_THROUGHPUT: &str = r"
with part as (
    select relid, coalesce(seq_scan, 0) as scans, coalesce(seq_tup_read, 0) as rows_read, coalesce(idx_scan, 0) as index_scans,
        greatest(reltuples, 0) as rows
    from {parts} as part join pg_class on pg_class.oid = part.relid left join pg_stat_all_tables as stat using (relid)
    where not is_compressed
), total as (
    select sum(scans) as scans, sum(rows_read) as rows_read, sum(index_scans) as index_scans, sum(rows)::bigint as rows from part
)
select format('%s reads have scanned whole chunks and read %s rows, and %s have used an index: those by id, or by series and time '
        'without a column, have no index with the profile throughput', scans, rows_read, index_scans) as what,
    'series-ingest schema set-profile standard, or name the column in such queries' as change,
    scans, rows_read, index_scans, rows
from total
where scans >= 1000 and scans > index_scans and rows >= 100000 and rows_read > 100 * rows
    and to_regclass(format('%I.time_series_data_points_pkey', {schema})) is null
    and to_regclass(format('%I.idx_time_series_data_points_series_time', {schema})) is null";
