//! Numbers of rows that come to an end.

use super::{Need, Rule};

/// An identity or a sequence whose next value the column cannot hold stops all writing.
pub(super) const ENDS: Rule = Rule { name: "identity", need: Need::Tables, hidden: Some(HIDDEN), sql: SQL };

const SQL: &str = r"
with owned as (
    select seqrelid, refobjid::regclass as owner, attname, seqincrement,
        least(seqmax, case atttypid when 'smallint'::regtype then 32767 when 'integer'::regtype then 2147483647
                      else 9223372036854775807 end) as maximum,
        case when has_sequence_privilege(seqrelid, 'select, usage') then pg_sequence_last_value(seqrelid) end as last_value
    from pg_sequence
    join pg_depend on classid = 'pg_class'::regclass and objid = seqrelid and refclassid = 'pg_class'::regclass
        and deptype in ('a', 'i') and refobjsubid > 0
    join pg_class on pg_class.oid = refobjid and relnamespace = to_regnamespace(quote_ident({schema}))
    join pg_attribute on attrelid = refobjid and attnum = refobjsubid
)
select format('the column %s of %s has used %s of %s numbers: writing stops at the last one', attname, owner, last_value, maximum)
        as what,
    case when maximum < 9223372036854775807
        then format('alter table %s alter column %I type bigint, and alter sequence %s as bigint, while no worker writes', owner,
            attname, seqrelid::regclass)
        else format('alter sequence %s restart, if its first numbers are no longer used', seqrelid::regclass) end as change,
    last_value, maximum
from owned where last_value > 0.7 * maximum";

const HIDDEN: &str = r"
select format('this role may not see the sequences of %s', string_agg(distinct refobjid::regclass::text, ', '))
from pg_sequence
join pg_depend on classid = 'pg_class'::regclass and objid = seqrelid and refclassid = 'pg_class'::regclass
    and deptype in ('a', 'i') and refobjsubid > 0
join pg_class on pg_class.oid = refobjid and relnamespace = to_regnamespace(quote_ident({schema}))
where not has_sequence_privilege(seqrelid, 'select, usage')
having count(*) > 0";
