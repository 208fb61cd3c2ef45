//! Tables without statistics.

use super::{Need, Rule};

/// Without them the server assumes a few rows, and may choose plans that take a thousand times as long.
pub(super) const MISSING: Rule = Rule { name: "statistics", need: Need::Tables, hidden: Some(HIDDEN), sql: SQL };

const SQL: &str = r"
with part as (
    select relid, relname, nspname, pg_relation_size(relid) as bytes
    from (select relid from {parts} as part
          union all select to_regclass(format('%I.time_series_metadata', {schema}))) as part
    join pg_class on pg_class.oid = relid join pg_namespace on pg_namespace.oid = relnamespace
    where pg_relation_size(relid) >= 1048576 and has_table_privilege(relid, 'select')
), total as (
    select count(*) as tables, sum(bytes) as bytes, (array_agg(relid order by bytes desc))[1] as largest
    from part
    where not exists (select from pg_stats where schemaname = nspname and tablename = relname)
)
select format('%s tables with %s, such as %s, were never analyzed: the server plans queries of them without statistics',
        tables, pg_size_pretty(bytes), largest) as what,
    format('analyze %s; and look why autovacuum does not do it: alter table … reset (autovacuum_enabled), autovacuum = on',
        case when largest = to_regclass(format('%I.time_series_metadata', {schema})) then largest else {points} end) as change,
    tables, bytes
from total where tables > 0";

const HIDDEN: &str = r"
select format('this role may not read %s of the tables, and so not see whether they have statistics', count(*))
from {parts} as part where not has_table_privilege(relid, 'select') having count(*) > 0";
