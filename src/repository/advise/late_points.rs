//! Points that come into chunks that are compressed.

use super::{Need, Rule};

/// A compressed chunk with points that came later is stored twice until it is compressed again; each such point is slower to
/// write.
pub(super) const LATE: Rule = Rule { name: "late-points", need: Need::Hypertable, hidden: None, sql: SQL };

const SQL: &str = r"
with chunk as (
    -- Bit 8 of the status: it has rows that are not compressed.
    select range_end, status & 8 <> 0 as has_late
    from timescaledb_information.chunks as part
    join _timescaledb_catalog.chunk on schema_name = chunk_schema and table_name = chunk_name
    where hypertable_schema = {schema} and hypertable_name = 'time_series_data_points' and is_compressed
), total as (
    select count(*) as compressed, count(*) filter (where has_late) as late, min(range_end) filter (where has_late) as oldest
    from chunk
)
select format('%s of %s compressed chunks have points that came after they were compressed, the oldest from before %s: these are '
        'slower to write, and are compressed again and again', late, compressed, oldest) as what,
    case when oldest > now() - interval '90 days'
        then format('set database.compress_after_s = %s, and run `series-ingest migrate`',
            (ceil(extract(epoch from now() - oldest) / 86400) + 1)::bigint * 86400)
        else 'import points that are this old at a time of little load, and all of a chunk at once' end as change,
    late, compressed, oldest
from total where late >= 3";
