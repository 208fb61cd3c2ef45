-- Deleting series and points, so that they stay deleted: first a tombstone, then the points in short transactions, then the row of
-- the series. A transaction that writes points locks the rows of its series, and then looks for tombstones (ingest_check_deleted):
-- either it sees one, or it ends before the points are deleted (ingest_writers).

-- Records the deletion of series: of their points before p_before, of the whole series if that is infinity. p_message_ms holds the
-- Kafka times up to which messages no longer count, or NULL for now. A deletion that is not newer than a recorded one changes
-- nothing.
create function ingest_delete_series(p_ids text[], p_before timestamptz, p_message_ms bigint[]) returns void
language plpgsql as $$
begin
    insert into ingest_series_tombstone as known (series_id, before_time, message_ms)
    select id, p_before, max(coalesce(message_ms, floor(extract(epoch from clock_timestamp()) * 1000)::bigint))
    from unnest(p_ids, p_message_ms) as t (id, message_ms)
    group by id order by id collate "C"
    on conflict (series_id, before_time) do update set
        message_ms = excluded.message_ms, deleted_at = now(), completed_at = null,
        points = 0, dead_letters = 0, series_deleted = false
    where known.message_ms < excluded.message_ms;
    if found then
        perform nextval('ingest_series_change');
    end if;
end $$;

-- Returns the deletions of these series; before_us is NULL for all points.
create function ingest_series_tombstones(p_ids text[])
returns table (series_id text, before_us bigint, message_ms bigint)
language sql volatile as $$
    select series_id, case when isfinite(before_time) then (extract(epoch from before_time) * 1000000)::bigint end, message_ms
    from ingest_series_tombstone where series_id = any (p_ids)
$$;

-- Raises IC012 if one of these series has a deletion that the caller does not know and that a message of the Kafka time
-- p_oldest_ms is not newer than. Called after the rows of the series are locked; as its own statements, it sees what was committed
-- while that lock was waited for.
create function ingest_check_deleted(
    p_ids text[], p_oldest_ms bigint, p_known_ids text[], p_known_before_us bigint[], p_known_ms bigint[]) returns void
language plpgsql volatile as $$
begin
    if exists (
        select from ingest_series_tombstones(p_ids) as deleted
        where deleted.message_ms >= p_oldest_ms and not exists (
            select from unnest(p_known_ids, p_known_before_us, p_known_ms) as known (id, before_us, message_ms)
            where known.id = deleted.series_id and known.message_ms = deleted.message_ms
                and known.before_us is not distinct from deleted.before_us))
    then
        raise exception using errcode = 'IC012', message = 'a series of these messages was deleted after they were sent';
    end if;
end $$;

-- Returns the transactions that may be writing points, except this one.
create function ingest_writers() returns setof text
language sql volatile as $$
    select distinct virtualtransaction from pg_locks
    where locktype = 'relation' and relation = 'time_series_data_points'::regclass and granted
        and database = (select oid from pg_database where datname = current_database())
        and mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        and pid is distinct from pg_backend_pid()
$$;

-- Returns the intervals of time in which the points are stored: those of the chunks, or one without ends if they are a plain table.
create function ingest_chunk_windows()
returns table (from_time timestamptz, until_time timestamptz)
language plpgsql stable as $$
begin
    if to_regclass('_timescaledb_catalog.dimension_slice') is not null then
        return query
            select case when slice.range_start < -210866803200000000 then '-infinity'
                    else timestamptz 'epoch' + slice.range_start * interval '1 microsecond' end,
                case when slice.range_end > 9223371331200000000 then 'infinity'
                    else timestamptz 'epoch' + slice.range_end * interval '1 microsecond' end
            from _timescaledb_catalog.hypertable
            join _timescaledb_catalog.dimension
                on dimension.hypertable_id = hypertable.id and dimension.column_name = 'timestamp'
            join _timescaledb_catalog.dimension_slice as slice on slice.dimension_id = dimension.id
            where hypertable.schema_name = current_schema() and hypertable.table_name = 'time_series_data_points'
            order by 1;
        if found or exists (
            select from _timescaledb_catalog.hypertable
            where schema_name = current_schema() and table_name = 'time_series_data_points')
        then
            return;
        end if;
    end if;
    return query select timestamptz '-infinity', timestamptz 'infinity';
end $$;

-- Deletes about p_limit points of a series in [p_from, p_until), in the order of column and time, after the place that p_column and
-- p_time name. Returns how many it were, and the place after which the next call goes on: NULL if no point is left. The times are
-- constants of the statements, so that these plan and lock a single chunk. Only what a recorded deletion applies to is deleted.
create function ingest_delete_points(
    p_series text, p_from timestamptz, p_until timestamptz, p_limit integer, inout p_column text, inout p_time timestamptz,
    out deleted bigint)
language plpgsql as $$
declare
    points text := format('time_series_id = %L and "timestamp" >= %L and "timestamp" < %L', p_series, p_from, p_until);
    of_column text;
    last_time timestamptz;
    count bigint;
    is_left boolean;
begin
    if not exists (select from ingest_series_tombstone where series_id = p_series and before_time >= p_until) then
        raise exception 'no deletion of the series % is recorded for points before %', p_series, p_until;
    end if;
    -- A range that ends inside a compressed batch makes the server decompress it.
    perform set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true);
    deleted := 0;
    if p_column is null then
        execute format('select column_name from time_series_data_points where %s order by column_name limit 1', points)
            into p_column;
    end if;
    -- Column by column: TimescaleDB has no index scan of a compressed chunk for a comparison of rows.
    while p_column is not null and deleted < p_limit loop
        of_column := points || format(' and column_name = %L', p_column);
        if p_time is not null then
            of_column := of_column || format(' and "timestamp" > %L', p_time);
        end if;
        execute format('select "timestamp" from time_series_data_points where %s order by "timestamp" offset %s limit 1',
            of_column, p_limit - deleted - 1) into last_time;
        if last_time is not null then
            of_column := of_column || format(' and "timestamp" <= %L', last_time);
        end if;
        -- TimescaleDB (2.19 to 2.22 at least) may decompress points for a statement that then does not see them: the next one does.
        for attempt in 1..10 loop
            execute format('delete from time_series_data_points where %s', of_column);
            get diagnostics count = row_count;
            deleted := deleted + count;
            execute format('select exists (select from time_series_data_points where %s)', of_column) into is_left;
            exit when not is_left;
        end loop;
        if is_left then
            raise exception 'points of the series % and the column % are left after they were deleted', p_series, p_column;
        end if;
        execute format('delete from ingest_point_version where %s', of_column);
        p_time := last_time;
        if p_time is null then
            execute format('select column_name from time_series_data_points where %s and column_name > %L order by column_name limit 1',
                points, p_column) into p_column;
        end if;
    end loop;
    update ingest_series_tombstone as tombstone set points = tombstone.points + deleted
    where series_id = p_series and before_time >= p_until and completed_at is null and deleted > 0;
end $$;

-- Returns the series that the payload of a message in JSON names; NULL if it is not one.
create function ingest_payload_series(p_payload bytea) returns text
language plpgsql immutable as $$
declare
    message json;
begin
    -- Not in the declaration: what that raises is not caught below.
    message := convert_from(p_payload, 'UTF8')::json;
    return case when json_typeof(message) = 'object' then coalesce(message ->> 'time_series_id', message ->> 'id') end;
exception when data_exception or program_limit_exceeded then
    return null;
end $$;

-- Deletes dead letters of a deleted series that are not newer than the deletion. Only those of these sources, whose messages are
-- native: what a key or a field means in another format is not known here. They are those whose payload is a message of the series,
-- or, if it is not JSON, whose key is the series' id.
create function ingest_delete_dead_letters(p_series text, p_sources integer[]) returns void
language plpgsql as $$
declare
    known_ms bigint;
    deleted bigint;
begin
    select message_ms into known_ms from ingest_series_tombstone
    where series_id = p_series and before_time = 'infinity' for update;
    delete from ingest_dead_letter
    where source_id = any (p_sources)
        and (message_time is null or message_time <= timestamptz 'epoch' + known_ms * interval '1 millisecond')
        and coalesce(ingest_payload_series(payload) = p_series, key = convert_to(p_series, 'UTF8'));
    get diagnostics deleted = row_count;
    update ingest_series_tombstone set dead_letters = dead_letters + deleted
    where series_id = p_series and before_time = 'infinity' and deleted > 0;
end $$;

-- Ends a deletion whose points are deleted. The row of a series is deleted, with points that came meanwhile, unless a definition is
-- newer than the deletion. p_until_now: messages that were sent until now no longer count. Returns what was deleted by all
-- that have worked on the deletion: a command and a worker may do it together.
create function ingest_finish_deletion(
    p_series text, p_before timestamptz, p_until_now boolean,
    out points bigint, out dead_letters bigint, out series_deleted boolean)
language plpgsql as $$
declare
    known_ms bigint;
begin
    if not isfinite(p_before) then
        perform from time_series_metadata where id = p_series for update;
    end if;
    update ingest_series_tombstone as tombstone set
        message_ms = case when p_until_now
            then greatest(message_ms, floor(extract(epoch from clock_timestamp()) * 1000)::bigint) else message_ms end,
        completed_at = now()
    where series_id = p_series and before_time = p_before
    returning message_ms into known_ms;
    if not isfinite(p_before) and not exists (
        select from ingest_series
        where series_id = p_series and message_time > timestamptz 'epoch' + known_ms * interval '1 millisecond')
    then
        delete from time_series_metadata where id = p_series;
        if found then
            update ingest_series_tombstone as tombstone set series_deleted = true
            where series_id = p_series and before_time = p_before;
        end if;
    end if;
    select tombstone.points, tombstone.dead_letters, tombstone.series_deleted into points, dead_letters, series_deleted
    from ingest_series_tombstone as tombstone where series_id = p_series and before_time = p_before;
    perform nextval('ingest_series_change');
end $$;

select ingest_secure_functions(array[
    'ingest_delete_series', 'ingest_series_tombstones', 'ingest_check_deleted', 'ingest_writers', 'ingest_chunk_windows',
    'ingest_delete_points', 'ingest_payload_series', 'ingest_delete_dead_letters', 'ingest_finish_deletion'
]);
