-- A transaction that creates a chunk locks time_series_metadata and the hypertable until it ends, because the chunk gets the
-- foreign key, and other writers wait. So chunks are created ahead, in short transactions, before the points are copied.

-- Ensures that there is a chunk for points of this time, in microseconds since the Unix epoch. It is created by a row of this
-- series, which is deleted in the same transaction, because the Apache edition lacks TimescaleDB's function for it. Returns the
-- interval [from_us, until_us) around the time for which no further call is needed: the chunk's; all of time if the points are a
-- plain table. If a trigger or a constraint of an operator's would apply to the row, the COPY is left to create the chunk;
-- errors that concern the database, not the row, are raised.
create function ingest_ensure_chunk(
    p_series text, p_time_us bigint, out from_us bigint, out until_us bigint, out created boolean)
language plpgsql as $$
declare
    time_dimension integer;
    interval_us bigint;
    point_time timestamptz := timestamptz 'epoch' + p_time_us * interval '1 microsecond';
    point_id bigint;
begin
    created := false;
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
        perform ingest_check_session();
        begin
            insert into time_series_data_points (time_series_id, "timestamp", column_name) values (p_series, point_time, '')
            returning id into point_id;
            delete from time_series_data_points
            where time_series_id = p_series and "timestamp" = point_time and column_name = '' and id = point_id;
            created := true;
        exception when others then
            -- A constraint, or a function that it calls, may refuse this row with any other code, and take all points.
            if left(sqlstate, 2) in ('0A', '25', '3D', '3F', '42', '55', '58', 'F0', 'HV', 'IC', 'IO', 'TS', 'XX')
                and sqlstate <> '55P03'
            then
                raise;
            end if;
            raise debug 'no chunk was created ahead: %', sqlerrm;
            exit;
        end;
    end loop;
    if from_us is null then
        from_us := floor(p_time_us::numeric / interval_us) * interval_us;
        until_us := from_us + interval_us;
    end if;
end $$;

select ingest_secure_functions(array['ingest_ensure_chunk']);
