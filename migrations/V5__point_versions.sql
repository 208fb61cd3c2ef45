-- Duplicate points, in different messages: points.on_duplicate = "ignore" and "replace". Both need a unique index on the points,
-- which `migrate` makes if one of them is configured; see docs/schema.md.

-- The message that each point has its value from; written with "replace" only. A point without a row is older than any message.
create table ingest_point_version (
    time_series_id text collate "C" not null,
    column_name text collate "C" not null,
    "timestamp" timestamptz not null,
    message_ms bigint not null,
    "offset" bigint not null,
    partition integer not null,
    source_id integer not null,
    constraint ingest_point_version_pkey primary key (time_series_id, column_name, "timestamp")
);

comment on column ingest_point_version.message_ms is 'the message''s Kafka time, in ms since the Unix epoch';

-- Adds points, which are sorted and without duplicates; rows that exist stay unchanged. Returns the number of rows added.
create function ingest_add_points(
    p_series text[], p_columns text[], p_times timestamptz[], p_values double precision[])
returns bigint
language plpgsql as $$
declare
    added bigint;
begin
    insert into time_series_data_points (time_series_id, column_name, "timestamp", value)
    select * from unnest(p_series, p_columns, p_times, p_values)
    on conflict (time_series_id, column_name, "timestamp") do nothing;
    get diagnostics added = row_count;
    return added;
end $$;

-- Adds points, which are sorted and without duplicates, and replaces the values of rows that are of earlier messages. A message
-- is later than another by its time, and of the same time by its offset, partition and source, as for series definitions. The
-- versions are locked in the order of the points, and a point is written only under its version's lock. p_sources has numbers
-- that p_source_keys names, each at the index of p_source_numbers: the caller orders messages by them, too.
-- The planner does not know the length of arrays, and would compare each row with each: enable_nestloop is off.
create function ingest_replace_points(
    p_series text[], p_columns text[], p_times timestamptz[], p_values double precision[],
    p_message_ms bigint[], p_offsets bigint[], p_partitions integer[], p_sources integer[],
    p_source_numbers integer[], p_source_keys uuid[])
returns bigint
language plpgsql
set enable_nestloop = off as $$
declare
    changed bigint;
    named record;
begin
    for named in select * from unnest(p_source_numbers, p_source_keys) as t (source_number, source_key) loop
        if ingest_source_number(named.source_key) <> named.source_number then
            raise exception 'the source with the key % has another number than %', named.source_key, named.source_number
                using errcode = 'IC004';
        end if;
    end loop;
    with incoming as materialized (
        select * from unnest(p_series, p_columns, p_times, p_values, p_message_ms, p_offsets, p_partitions, p_sources)
            as t (time_series_id, column_name, "timestamp", value, message_ms, "offset", partition, source_id)
    ), later as (
        insert into ingest_point_version as stored
            (time_series_id, column_name, "timestamp", message_ms, "offset", partition, source_id)
        select time_series_id, column_name, "timestamp", message_ms, "offset", partition, source_id from incoming
        on conflict (time_series_id, column_name, "timestamp") do update set
            message_ms = excluded.message_ms,
            "offset" = excluded."offset",
            partition = excluded.partition,
            source_id = excluded.source_id
        where (excluded.message_ms, excluded."offset", excluded.partition, excluded.source_id)
            >= (stored.message_ms, stored."offset", stored.partition, stored.source_id)
        returning time_series_id, column_name, "timestamp"
    )
    insert into time_series_data_points (time_series_id, column_name, "timestamp", value)
    select incoming.time_series_id, incoming.column_name, incoming."timestamp", incoming.value
    from incoming join later using (time_series_id, column_name, "timestamp")
    order by incoming.time_series_id collate "C", incoming.column_name collate "C", incoming."timestamp"
    on conflict (time_series_id, column_name, "timestamp") do update set value = excluded.value;
    get diagnostics changed = row_count;
    return changed;
end $$;

select ingest_secure_functions(array['ingest_add_points', 'ingest_replace_points']);
