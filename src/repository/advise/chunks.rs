//! The length of chunks, against the memory of the server and the rate of points.

use super::{Need, Rule};

/// The indexes of the chunk that is written to should stay in memory: a quarter of `shared_buffers` is what TimescaleDB's
/// documentation recommends for all of them.
pub(super) const TOO_LARGE: Rule = Rule { name: "chunks-too-large", need: Need::Hypertable, hidden: None, sql: LARGE };

/// Each chunk costs planning time and locks, however few points it has.
pub(super) const TOO_SMALL: Rule = Rule { name: "chunks-too-small", need: Need::Hypertable, hidden: None, sql: SMALL };

const LARGE: &str = r"
with newest as (
    select relid, extract(epoch from range_end - range_start)::bigint as interval_s, pg_indexes_size(relid) as index_bytes,
        greatest(reltuples, 0)::bigint as points
    from {parts} as part join pg_class on pg_class.oid = relid
    where not is_compressed
    order by range_end desc limit 5
), largest as (
    select *, pg_size_bytes(current_setting('shared_buffers')) / 4 as quarter_bytes from newest order by index_bytes desc limit 1
), wanted as (
    select *, coalesce((
        select max(seconds)
        from unnest(array[60, 300, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 1209600]) as seconds
        where seconds <= interval_s::numeric * quarter_bytes / index_bytes), 60) as wanted_s
    from largest where index_bytes > quarter_bytes
)
select format('the indexes of the chunk %s take %s, and a quarter of shared_buffers is %s: writing waits for the disk',
        relid, pg_size_pretty(index_bytes), pg_size_pretty(quarter_bytes)) as what,
    format('set database.chunk_interval_s = %s instead of %s, and run `series-ingest migrate`; or give the server more memory: '
        'shared_buffers = %sMB', wanted_s, interval_s, ceil(index_bytes * 4 / 1048576.0)) as change,
    interval_s, index_bytes, quarter_bytes, points, round(points::numeric / interval_s, 1) as points_per_s
from wanted";

const SMALL: &str = r"
with part as (
    select relid, extract(epoch from range_end - range_start)::bigint as interval_s, pg_total_relation_size(relid) as bytes,
        is_compressed, range_end = max(range_end) over () as is_newest
    from {parts} as part
), total as (
    select count(*) as chunks, count(*) filter (where not is_compressed and not is_newest) as measured,
        coalesce(avg(bytes) filter (where not is_compressed and not is_newest), 0)::bigint as average_bytes,
        max(interval_s) as interval_s, pg_size_bytes(current_setting('shared_buffers')) / 400 as hundredth_bytes
    from part
)
select format('%s chunks have %s each on average: each costs planning time and locks, and %s would still be small',
        chunks, pg_size_pretty(average_bytes), pg_size_pretty(hundredth_bytes * 10)) as what,
    format('set database.chunk_interval_s = %s instead of %s, and run `series-ingest migrate`: it applies to new chunks',
        least(interval_s * greatest(2, hundredth_bytes * 10 / greatest(average_bytes, 1)), 31536000), interval_s) as change,
    chunks, average_bytes, interval_s
from total where chunks >= 200 and measured >= 20 and average_bytes < hundredth_bytes";
