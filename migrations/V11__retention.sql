-- Retention: points that are older than an age are deleted: whole chunks of a hypertable, and rows in small transactions of a plain
-- table. migrate stores the age here, so that all workers use the same one. Where TimescaleDB has its own policy for the table
-- (community edition), that does it; otherwise the workers call ingest_drop_expired, one at a time.

create table ingest_retention (
    table_name text collate "C" primary key,
    drop_after interval not null,
    set_at timestamptz not null default now()
);

comment on column ingest_retention.drop_after is 'points of this table that are older are deleted';

-- Returns the chunks of a table whose points are all before a time, oldest first; nothing if the table is not a hypertable.
create function ingest_chunks_before(p_table text, p_before timestamptz)
returns table (chunk text, from_time timestamptz, until_time timestamptz)
language plpgsql stable as $$
begin
    if to_regclass('timescaledb_information.chunks') is null then
        return;
    end if;
    return query
        select format('%I.%I', chunk_schema, chunk_name), range_start, range_end
        from timescaledb_information.chunks
        where hypertable_schema = current_schema() and hypertable_name = p_table and range_end <= p_before
        order by range_end;
end $$;

-- Returns true if the table is a hypertable.
create function ingest_is_hypertable(p_table text) returns boolean
language plpgsql stable as $$
begin
    if to_regclass('timescaledb_information.hypertables') is null then
        return false;
    end if;
    return exists (
        select from timescaledb_information.hypertables
        where hypertable_schema = current_schema() and hypertable_name = p_table);
end $$;

-- Returns what is known of the retention of the points; no row if they are kept for ever. by_policy: TimescaleDB's own policy deletes
-- them. overdue: for how long the oldest of them should have been gone, at least; null if none should.
create function ingest_retention_state()
returns table (drop_after_s bigint, by_policy boolean, is_hypertable boolean, overdue_s double precision)
language plpgsql volatile as $$
declare
    cutoff timestamptz;
    oldest timestamptz;
begin
    select extract(epoch from drop_after)::bigint, now() - drop_after into drop_after_s, cutoff
    from ingest_retention where table_name = 'time_series_data_points';
    if not found then
        return;
    end if;
    by_policy := false;
    is_hypertable := ingest_is_hypertable('time_series_data_points');
    if is_hypertable then
        by_policy := exists (
            select from timescaledb_information.jobs
            where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'
                and proc_name = 'policy_retention' and scheduled);
        select until_time into oldest from ingest_chunks_before('time_series_data_points', cutoff) limit 1;
    else
        select "timestamp" into oldest from time_series_data_points
        where "timestamp" < cutoff and isfinite("timestamp") order by "timestamp" limit 1;
    end if;
    overdue_s := extract(epoch from cutoff - oldest);
    return next;
end $$;

-- Returns the time of the oldest point that is finite, in microseconds since the Unix epoch; null if there is none.
create function ingest_oldest_point() returns bigint
language sql volatile as $$
    select (extract(epoch from "timestamp") * 1000000)::bigint from time_series_data_points
    where "timestamp" > '-infinity' order by "timestamp" limit 1
$$;

-- Deletes the oldest of what has expired, in this transaction: a chunk of a hypertable, or up to p_points points of a plain table.
-- Returns the numbers of chunks and points; has_more is true if there may be more. One caller at a time: is_busy is true if another
-- one is at it. Dropping a chunk locks time_series_metadata, if the foreign key is there, and a session that waits for a lock keeps others
-- waiting: so it waits for p_lock_ms only.
create function ingest_drop_expired(
    p_lock_ms integer, p_points integer,
    out chunks bigint, out points bigint, out is_busy boolean, out has_more boolean)
language plpgsql as $$
declare
    cutoff timestamptz;
    oldest record;
    extension_schema text;
begin
    chunks := 0;
    points := 0;
    has_more := false;
    is_busy := not pg_try_advisory_xact_lock(hashtext('series-ingest retention'), hashtext(current_schema()));
    if is_busy then
        return;
    end if;
    select now() - drop_after into cutoff from ingest_retention where table_name = 'time_series_data_points';
    if cutoff is null then
        return;
    end if;
    perform set_config('lock_timeout', p_lock_ms || 'ms', true);
    select quote_ident(nspname) into extension_schema
    from pg_extension join pg_namespace on pg_namespace.oid = extnamespace where extname = 'timescaledb';
    if ingest_is_hypertable('time_series_data_points') then
        -- The versions first: points without versions can be replaced, versions without points are nothing.
        for oldest in
            select table_name, from_time, until_time
            from unnest(array['ingest_point_version', 'time_series_data_points']) with ordinality as t (table_name, place),
                lateral (select * from ingest_chunks_before(table_name, cutoff) limit 1) as chunk
            order by until_time, place limit 1
        loop
            execute format('select %s.drop_chunks(%L::regclass, older_than => %L::timestamptz, newer_than => %L::timestamptz)',
                extension_schema, quote_ident(oldest.table_name), oldest.until_time, oldest.from_time);
            chunks := (oldest.table_name = 'time_series_data_points')::integer;
            has_more := true;
        end loop;
    else
        with expired as (
            select ctid from time_series_data_points where "timestamp" < cutoff and "timestamp" > '-infinity'
            order by "timestamp" limit p_points
        ), gone as (
            delete from time_series_data_points as point using expired
            where point.ctid = expired.ctid and point."timestamp" < cutoff
            returning point.time_series_id, point.column_name, point."timestamp"
        ), without_version as (
            delete from ingest_point_version as version using gone
            where (version.time_series_id, version.column_name, version."timestamp")
                = (gone.time_series_id, gone.column_name, gone."timestamp")
        )
        select count(*) into points from gone;
        has_more := points >= p_points;
    end if;
end $$;

select ingest_secure_functions(array[
    'ingest_chunks_before', 'ingest_is_hypertable', 'ingest_retention_state', 'ingest_oldest_point', 'ingest_drop_expired'
]);
