-- Guards of the write path: the rows of a batch's series are locked once a transaction, which the foreign key's trigger does once
-- for each point; a worker that may set session_replication_role can then skip that trigger. Of the triggers, rules and event
-- triggers that this setting skips, only that one may be skipped, and points must go into the hypertable's chunks.

-- Raises if points must not be written in this session (IC010) or in this database for now (IC011). A session that was opened
-- before a restore began does not have the setting, and the database has.
create function ingest_check_session() returns void
language plpgsql as $$
begin
    if current_setting('session_replication_role') = 'replica' then
        raise exception using errcode = 'IC010', message =
            'session_replication_role is replica: foreign keys and triggers are skipped. Reset it for the role and the database';
    end if;
    if lower(current_setting('timescaledb.restoring', true)) in ('on', 'true', 'yes', '1')
        or exists (
            select from pg_db_role_setting as setting, unnest(setting.setconfig) as entry
            where setting.setdatabase = (select oid from pg_database where datname = current_database())
                and setting.setrole = 0
                and lower(entry) in ('timescaledb.restoring=on', 'timescaledb.restoring=true',
                                     'timescaledb.restoring=yes', 'timescaledb.restoring=1'))
    then
        raise exception using errcode = 'IC011', message = format(
            'a restore of the database %I is in progress: timescaledb.restoring is on. When the restore is complete, run  '
            'select timescaledb_post_restore()', current_database());
    end if;
end $$;

-- Locks the rows of these series, each named once, against being deleted before the transaction ends. Raises what the foreign key
-- would raise if one has no row. Returns what keeps the points' series from being deleted:
--   locked   these locks alone: the worker may skip the foreign key's trigger
--   trigger  the foreign key's trigger as well, because skipping it would skip something else, or the worker may not
--   absent   these locks alone: the table has no foreign key
create function ingest_lock_series(p_series text[])
returns text
language plpgsql as $$
declare
    points constant oid := 'time_series_data_points'::regclass;
    series constant oid := 'time_series_metadata'::regclass;
    -- The tables that are written while the trigger is skipped.
    tables constant oid[] := array['time_series_data_points'::regclass, 'ingest_point_version'::regclass];
    caller name;
    may_set boolean;
    foreign_key oid;
    found bigint;
    reference text := 'locked';
begin
    perform ingest_check_session();
    -- The result of reading the triggers holds until the transaction ends: a CREATE TRIGGER waits for this lock. Chunks are not
    -- locked, or writers would wait for maintenance of an old one.
    lock table only time_series_data_points in row exclusive mode;
    select oid into foreign_key from pg_constraint
    where conrelid = points and confrelid = series and contype = 'f'
        and conkey = array[(select attnum from pg_attribute where attrelid = points and attname = 'time_series_id')]
        and confkey = array[(select attnum from pg_attribute where attrelid = series and attname = 'id')]
    order by oid limit 1;
    if foreign_key is not null then
        -- The worker's right, not that of this function's owner: that of the role that it has set, if it has set one.
        caller := coalesce(nullif(current_setting('role'), 'none'), session_user);
        if current_setting('server_version_num')::integer >= 150000 then
            may_set := has_parameter_privilege(caller, 'session_replication_role', 'set');
        else
            may_set := (select rolsuper from pg_roles where rolname = caller);
        end if;
        if not may_set
            or current_setting('session_replication_role') <> 'origin'
            or exists (
                select from pg_class where oid = any (tables) and (relkind <> 'r' or relrowsecurity))
            -- Constraints that internal triggers check, of the tables and of single chunks.
            or exists (
                select from pg_constraint as c
                where c.oid <> foreign_key and (c.contype in ('f', 't') or c.condeferrable)
                    and (c.conrelid = any (tables) or c.confrelid = any (tables)
                        or c.confrelid <> series and exists (
                            select from pg_inherits
                            where inhparent = any (tables) and inhrelid in (c.conrelid, c.confrelid))))
            -- Triggers and rules, whether they fire for origin, replica or always: tables that an ALWAYS trigger writes have
            -- triggers, too. TimescaleDB's blocker is for rows that miss the chunks, which ingest_check_root_tables finds.
            or exists (
                select from pg_trigger as t
                where not t.tgisinternal and t.tgenabled <> 'D'
                    and (t.tgrelid = any (tables)
                        or t.tgrelid in (select inhrelid from pg_inherits where inhparent = any (tables)))
                    and t.tgfoid is distinct from to_regproc('_timescaledb_functions.insert_blocker')
                    and t.tgfoid is distinct from to_regproc('_timescaledb_internal.insert_blocker'))
            or exists (select from pg_rewrite where ev_class = any (tables) and ev_enabled <> 'D')
            -- A COPY that creates a chunk adds its foreign key by ALTER TABLE.
            or exists (
                select from pg_event_trigger as e
                where e.evtenabled <> 'D' and e.evtevent <> 'login' and not exists (
                    select from pg_depend
                    where classid = 'pg_event_trigger'::regclass and objid = e.oid and deptype = 'e'))
            -- A function in a default, a constraint, a domain or an index may write to tables that have triggers.
            or exists (
                select from pg_attribute join pg_type on pg_type.oid = atttypid
                where attrelid = any (tables) and typtype = 'd')
            or exists (
                select from (
                    select 'pg_attrdef'::regclass, oid from pg_attrdef where adrelid = any (tables)
                    union all
                    select 'pg_constraint'::regclass, oid from pg_constraint where conrelid = any (tables)
                    union all
                    select 'pg_class'::regclass, indexrelid from pg_index where indrelid = any (tables)
                ) as part (classid, objid)
                join pg_depend as d on d.classid = part.classid and d.objid = part.objid
                where d.refclassid = 'pg_proc'::regclass)
        then
            reference := 'trigger';
        end if;
    else
        reference := 'absent';
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
    return reference;
end $$;

-- Raises if this transaction has written rows into the root table of a hypertable, where queries do not find them. An empty root
-- has no pages, so this costs no scan.
create function ingest_check_root_tables() returns void
language plpgsql as $$
declare
    root text;
begin
    if to_regclass('_timescaledb_catalog.hypertable') is null then
        return;
    end if;
    if pg_relation_size('time_series_data_points') > 0
        and exists (
            select from _timescaledb_catalog.hypertable
            where schema_name = current_schema() and table_name = 'time_series_data_points')
        and exists (select from only time_series_data_points where age(xmin) <= 0)
    then
        root := 'time_series_data_points';
    elsif pg_relation_size('ingest_point_version') > 0
        and exists (
            select from _timescaledb_catalog.hypertable
            where schema_name = current_schema() and table_name = 'ingest_point_version')
        and exists (select from only ingest_point_version where age(xmin) <= 0)
    then
        root := 'ingest_point_version';
    end if;
    if root is not null then
        raise exception using errcode = 'IC010', message = format(
            'rows went into the root table of the hypertable %s, where no query finds them: TimescaleDB is not at work in this '
            'session. Look for timescaledb.restoring and timescaledb.disable_load, and that the extension is preloaded', root);
    end if;
end $$;

select ingest_secure_functions(array['ingest_check_session', 'ingest_lock_series', 'ingest_check_root_tables']);
