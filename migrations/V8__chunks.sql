-- A transaction that makes a chunk locks time_series_metadata and the hypertable until it ends, because the chunk gets the
-- foreign key, and other writers wait. So chunks are made in short transactions of their own, before the points are copied.

-- Makes the chunk for points of this time, in microseconds since the Unix epoch, where there is none: by a row of this series,
-- which goes again in the same transaction, because TimescaleDB's function for it is not in the Apache edition. The answer is the
-- interval [from_us, until_us) around the time that needs no further question: the chunk's; all of time where the points are a
-- plain table. Where somebody's trigger or constraint would meet the row, the chunk is left to the COPY.
create function ingest_make_chunk(
    p_series text, p_time_us bigint, out from_us bigint, out until_us bigint, out made boolean)
language plpgsql as $$
declare
    time_dimension integer;
    interval_us bigint;
    point_time timestamptz := timestamptz 'epoch' + p_time_us * interval '1 microsecond';
begin
    made := false;
    from_us := -9223372036854775808;
    until_us := 9223372036854775807;
    if to_regclass('_timescaledb_catalog.dimension') is null then
        return;
    end if;
    select dimension.id, dimension.interval_length into time_dimension, interval_us
    from _timescaledb_catalog.dimension
    join _timescaledb_catalog.hypertable on hypertable.id = dimension.hypertable_id
    where hypertable.schema_name = current_schema() and hypertable.table_name = 'time_series_data_points'
        and dimension.column_name = 'timestamp';
    if interval_us is null then
        return;
    end if;
    for attempt in 1..2 loop
        select range_start, range_end into from_us, until_us
        from _timescaledb_catalog.dimension_slice
        where dimension_id = time_dimension and range_start <= p_time_us and range_end > p_time_us;
        exit when found or attempt = 2 or exists (
            select from pg_trigger
            where tgrelid = 'time_series_data_points'::regclass and not tgisinternal and tgname <> 'ts_insert_blocker');
        begin
            insert into time_series_data_points (time_series_id, "timestamp", column_name) values (p_series, point_time, '');
            delete from time_series_data_points where time_series_id = p_series and "timestamp" = point_time and column_name = '';
            made := true;
        exception when others then
            raise debug 'no chunk was made ahead: %', sqlerrm;
            exit;
        end;
    end loop;
    if from_us is null then
        from_us := floor(p_time_us::numeric / interval_us) * interval_us;
        until_us := from_us + interval_us;
    end if;
end $$;

do $$
begin
    execute format(
        'alter function ingest_make_chunk(text, bigint) security definer set search_path = %I, pg_temp', current_schema());
    revoke all on function ingest_make_chunk(text, bigint) from public;
end $$;
