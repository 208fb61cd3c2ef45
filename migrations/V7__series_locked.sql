-- The rows of a batch's series, locked once a transaction: what the foreign key's trigger does once for each point. A worker that
-- may set session_replication_role can then leave the trigger out.

-- Locks the rows of these series, each named once, against being deleted before the transaction ends. Raises what the foreign key
-- would raise where one has no row. The answer says what looks after the points' series:
--   locked   these locks alone: the worker may leave the foreign key's trigger out
--   trigger  the foreign key's trigger; nothing was locked, because leaving it out would leave out others as well, or the worker
--            may not
--   absent   these locks alone: the table has no foreign key
create function ingest_lock_series(p_series text[])
returns text
language plpgsql as $$
declare
    caller name;
    may_set boolean;
    foreign_key oid;
    found bigint;
begin
    -- What is read of triggers holds until the transaction ends: whoever makes one waits for this lock. The chunks are left out, or
    -- writers would wait for whatever is done to an old one.
    lock table only time_series_data_points in row exclusive mode;
    select oid into foreign_key from pg_constraint
    where conrelid = 'time_series_data_points'::regclass and confrelid = 'time_series_metadata'::regclass and contype = 'f';
    if foreign_key is not null then
        -- The worker's right, not that of this function's owner: of the role that it has set, if it has set any.
        caller := coalesce(nullif(current_setting('role'), 'none'), session_user);
        if current_setting('server_version_num')::integer >= 150000 then
            may_set := has_parameter_privilege(caller, 'session_replication_role', 'set');
        else
            may_set := (select rolsuper from pg_roles where rolname = caller);
        end if;
        -- Triggers that would not fire as a replica, or would only then. TimescaleDB's blocker is for rows that miss the chunks.
        if not may_set
            or current_setting('session_replication_role') <> 'origin'
            or exists (
                select from pg_trigger as t
                where t.tgrelid = 'time_series_data_points'::regclass and t.tgisinternal and t.tgconstraint <> foreign_key)
            or exists (
                select from pg_trigger as t
                where not t.tgisinternal and t.tgenabled in ('O', 'R') and t.tgname <> 'ts_insert_blocker'
                    and (t.tgrelid = 'time_series_data_points'::regclass
                        or t.tgrelid in (select inhrelid from pg_inherits where inhparent = 'time_series_data_points'::regclass)))
        then
            return 'trigger';
        end if;
    end if;
    select count(*) into found from (
        select from time_series_metadata where id = any (p_series) order by id for key share) as locked;
    if found <> cardinality(p_series) then
        raise exception using
            errcode = 'foreign_key_violation',
            message = format('%s of %s series have no row', cardinality(p_series) - found, cardinality(p_series)),
            table = 'time_series_data_points',
            constraint = 'time_series_data_points_time_series_id_fkey';
    end if;
    return case when foreign_key is null then 'absent' else 'locked' end;
end $$;

do $$
begin
    execute format(
        'alter function ingest_lock_series(text[]) security definer set search_path = %I, pg_temp', current_schema());
    revoke all on function ingest_lock_series(text[]) from public;
end $$;
