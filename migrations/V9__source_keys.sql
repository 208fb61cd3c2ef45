-- A number of a source means nothing in another database: one that was dropped and recreated, or restored from a backup,
-- gives the same numbers to other sources. So each source has a random key besides, and workers know sources by their keys
-- only: the functions take keys, look the number up in the transaction that uses it, and raise IC004 if there is none.

alter table ingest_source add column key uuid not null unique default gen_random_uuid();

comment on column ingest_source.key is 'what workers name the source by; random, so that no other source ever has it';

-- The identity of this database. A worker reads it on each new connection, to notice that it is connected to another one.
create table ingest_database (
    id uuid not null default gen_random_uuid(),
    created_at timestamptz not null default now(),
    only_row boolean primary key default true check (only_row)
);

insert into ingest_database default values;

drop function ingest_source_id(text, text, text, text);
drop function ingest_start(integer, integer[], bigint[]);
drop function ingest_claim(integer[], integer[], bigint[], bigint[]);
drop function ingest_claim_missing(integer[], integer[], bigint[], bigint[]);
drop function ingest_claim_journaled(integer[], integer[], bigint[], bigint[]);
drop function ingest_record_gap(integer, integer, bigint, bigint, text);
drop function ingest_define_series(
    text[], text[], text[], text[], text[], bigint[], integer[], integer[], bigint[]);
drop function ingest_replace_points(
    text[], text[], timestamptz[], double precision[], bigint[], bigint[], integer[], integer[]);
drop function ingest_add_dead_letters(
    integer[], integer[], bigint[], bigint[], bytea[], bytea[], bytea[], bigint[], text[], text[], boolean[], boolean,
    bigint[], bigint[]);
drop function ingest_count_dead_letters(integer[], integer[], text[], bigint[], bigint[], bigint[]);

-- The key and the number of a source, which is added if it is new. The number is for ordering only: no function takes it as
-- a source's name.
create function ingest_source_key(
    p_pipeline text, p_cluster_id text, p_topic text, p_topic_id text, out source_key uuid, out source_number integer)
language plpgsql as $$
begin
    select key, id into source_key, source_number from ingest_source
    where pipeline = p_pipeline and cluster_id = p_cluster_id and topic = p_topic and topic_id = p_topic_id;
    if source_key is null then
        insert into ingest_source (pipeline, cluster_id, topic, topic_id)
        values (p_pipeline, p_cluster_id, p_topic, p_topic_id)
        on conflict do nothing;
        select key, id into strict source_key, source_number from ingest_source
        where pipeline = p_pipeline and cluster_id = p_cluster_id and topic = p_topic and topic_id = p_topic_id;
    end if;
end $$;

-- The number that the source with this key has in this database.
create function ingest_source_number(p_key uuid) returns integer
language plpgsql stable as $$
declare
    found_id integer;
begin
    select id into found_id from ingest_source where key = p_key;
    if found_id is null then
        raise exception 'this database has no source with the key %', p_key using
            errcode = 'IC004',
            hint = 'It is another database than the one that gave the key, or was restored to a time before.';
    end if;
    return found_id;
end $$;

-- The next offset of each partition; a partition never read before starts at the offset given for it.
create function ingest_start(p_source uuid, p_partitions integer[], p_first_offsets bigint[])
returns table (partition integer, next_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    source_number integer := ingest_source_number(p_source);
begin
    insert into ingest_progress (source_id, partition, next_offset)
    select source_number, want.partition, want.first_offset
    from unnest(p_partitions, p_first_offsets) as want (partition, first_offset)
    order by want.partition
    on conflict do nothing;
    return query
        select progress.partition, progress.next_offset
        from ingest_progress as progress
        where progress.source_id = source_number and progress.partition = any (p_partitions);
end $$;

-- Returns normally if the server takes writes, and writes nothing.
create function ingest_probe() returns void
language sql as $$
    insert into ingest_progress (source_id, partition, next_offset) select 0, 0, 0 where false
$$;

-- The fast path: called after the points were copied. Raises when any offset was covered already, so that no second
-- transaction with the same messages can commit. Partitions are locked in one order, whatever the caller's.
create function ingest_claim(
    p_sources uuid[], p_partitions integer[], p_from_offsets bigint[], p_until_offsets bigint[])
returns table (source_key uuid, partition integer, next_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    want record;
    missing int8multirange;
begin
    for want in
        select ingest_source_number(t.source_key) as source_id, t.partition, t.from_offset, t.until_offset
        from unnest(p_sources, p_partitions, p_from_offsets, p_until_offsets)
            as t (source_key, partition, from_offset, until_offset)
        order by 1, 2, 3
    loop
        missing := ingest_cover(want.source_id, want.partition, want.from_offset, want.until_offset);
        if missing <> int8multirange(int8range(want.from_offset, want.until_offset)) then
            raise exception 'offsets [%, %) of source % partition % are applied already, except %',
                want.from_offset, want.until_offset, want.source_id, want.partition, missing
                using errcode = 'IC001';
        end if;
    end loop;
    return query select * from ingest_next_offsets(p_sources, p_partitions);
end $$;

-- The next offset of each of these partitions, as this transaction sees it.
create function ingest_next_offsets(p_sources uuid[], p_partitions integer[])
returns table (source_key uuid, partition integer, next_offset bigint)
language sql stable as $$
    select source.key, progress.partition, progress.next_offset
    from ingest_progress as progress join ingest_source as source on source.id = progress.source_id
    where (source.key, progress.partition) in (select * from unnest(p_sources, p_partitions))
$$;

-- The slow path: called before the points are copied. Covers the intervals and returns what of them was not covered
-- before: just this is to be written by the same transaction.
create function ingest_claim_missing(
    p_sources uuid[], p_partitions integer[], p_from_offsets bigint[], p_until_offsets bigint[])
returns table (source_key uuid, partition integer, from_offset bigint, until_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    want record;
begin
    for want in
        select ingest_source_number(t.source_key) as source_id, t.source_key, t.partition, t.from_offset, t.until_offset
        from unnest(p_sources, p_partitions, p_from_offsets, p_until_offsets)
            as t (source_key, partition, from_offset, until_offset)
        order by 1, 3, 4
    loop
        return query
            select want.source_key, want.partition, lower(island), upper(island)
            from unnest(ingest_cover(want.source_id, want.partition, want.from_offset, want.until_offset)) as island;
    end loop;
end $$;

-- The slow path for what a journal has: as ingest_claim_missing, and besides what of the intervals lies in gaps, which are
-- filled now. The lock of ingest_cover makes the answer true until the transaction ends.
create function ingest_claim_journaled(
    p_sources uuid[], p_partitions integer[], p_from_offsets bigint[], p_until_offsets bigint[])
returns table (source_key uuid, partition integer, from_offset bigint, until_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    want record;
    gap record;
    missing int8multirange;
begin
    for want in
        select ingest_source_number(t.source_key) as source_id, t.source_key, t.partition, t.from_offset, t.until_offset
        from unnest(p_sources, p_partitions, p_from_offsets, p_until_offsets)
            as t (source_key, partition, from_offset, until_offset)
        order by 1, 3, 4
    loop
        missing := ingest_cover(want.source_id, want.partition, want.from_offset, want.until_offset);
        for gap in
            delete from ingest_gap as known
            where known.source_id = want.source_id and known.partition = want.partition and known.filled_at is null
                and known.from_offset < want.until_offset and known.until_offset > want.from_offset
            returning known.from_offset, known.until_offset, known.reason, known.detected_at,
                greatest(known.from_offset, want.from_offset) as filled_from,
                least(known.until_offset, want.until_offset) as filled_until
        loop
            missing := missing + int8multirange(int8range(gap.filled_from, gap.filled_until));
            insert into ingest_gap (source_id, partition, from_offset, until_offset, reason, detected_at, filled_at)
            select want.source_id, want.partition, part.from_offset, part.until_offset, gap.reason, gap.detected_at,
                part.filled_at
            from (values
                (gap.from_offset, gap.filled_from, null::timestamptz),
                (gap.filled_from, gap.filled_until, now()),
                (gap.filled_until, gap.until_offset, null::timestamptz)
            ) as part (from_offset, until_offset, filled_at)
            where part.from_offset < part.until_offset
            on conflict (source_id, partition, from_offset) do update
                set until_offset = greatest(ingest_gap.until_offset, excluded.until_offset), filled_at = excluded.filled_at;
        end loop;
        return query
            select want.source_key, want.partition, lower(island), upper(island) from unnest(missing) as island;
    end loop;
end $$;

-- Records that Kafka no longer has [p_from, p_until), for what of it is not applied, and lets progress pass it.
create function ingest_record_gap(
    p_source uuid, p_partition integer, p_from bigint, p_until bigint, p_reason text)
returns table (from_offset bigint, until_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    source_number integer := ingest_source_number(p_source);
begin
    return query
        insert into ingest_gap (source_id, partition, from_offset, until_offset, reason)
        select source_number, p_partition, lower(island), upper(island), p_reason
        from unnest(ingest_cover(source_number, p_partition, p_from, p_until)) as island
        -- After progress was set back the same gap may be met again.
        on conflict (source_id, partition, from_offset) do update
            set until_offset = excluded.until_offset, detected_at = excluded.detected_at, filled_at = null
        returning ingest_gap.from_offset, ingest_gap.until_offset;
end $$;

-- Creates or updates series by their definitions, if these are newer than what is stored. Returns how many of them differ
-- from what another message says of the same series.
create function ingest_define_series(
    p_ids text[], p_names text[], p_descriptions text[], p_time_columns text[], p_columns text[],
    p_message_ms bigint[], p_sources uuid[], p_partitions integer[], p_offsets bigint[])
returns bigint
language sql as $$
    with given as (
        select
            id, name, description, time_column,
            array(select json_array_elements_text(columns::json)) as columns,
            to_timestamp(message_ms / 1000.0) as message_time,
            ingest_source_number(source_key) as source_id, partition, "offset"
        from unnest(p_ids, p_names, p_descriptions, p_time_columns, p_columns,
                    p_message_ms, p_sources, p_partitions, p_offsets)
            as t (id, name, description, time_column, columns, message_ms, source_key, partition, "offset")
    ), definition as (
        select distinct on (id collate "C") *
        from given
        order by id collate "C", message_time desc, "offset" desc, partition desc, source_id desc
    ), conflicting as (
        -- Another message, before this statement or in it, defines the same series otherwise.
        select from given
        join definition on definition.id = given.id
        left join ingest_series as stored on stored.series_id = given.id and stored.message_time is not null
            and (stored.source_id, stored.partition, stored."offset") <> (given.source_id, given.partition, given."offset")
        left join time_series_metadata as series on series.id = stored.series_id
        where (given.name, given.description, given.time_column, given.columns)
                is distinct from (definition.name, definition.description, definition.time_column, definition.columns)
            or series.id is not null
                and (given.name, given.description, given.time_column, given.columns)
                    is distinct from (series.name, series.description, series.time_column, stored.defined_columns)
    ), newer as (
        insert into ingest_series as stored
            (series_id, defined_columns, message_time, source_id, partition, "offset")
        select id, columns, message_time, source_id, partition, "offset"
        from definition order by id collate "C"
        on conflict (series_id) do update set
            defined_columns = excluded.defined_columns,
            message_time = excluded.message_time,
            source_id = excluded.source_id,
            partition = excluded.partition,
            "offset" = excluded."offset"
        where stored.message_time is null
            or (excluded.message_time, excluded."offset", excluded.partition, excluded.source_id)
                >= (stored.message_time, stored."offset", stored.partition, stored.source_id)
        returning series_id, ingest_value_columns(defined_columns, seen_columns) as value_columns
    ), written as (
        insert into time_series_metadata as series (id, name, description, time_column, value_columns)
        select definition.id, definition.name, definition.description, definition.time_column, newer.value_columns
        from definition join newer on newer.series_id = definition.id
        order by definition.id collate "C"
        on conflict (id) do update set
            name = excluded.name,
            description = excluded.description,
            time_column = excluded.time_column,
            value_columns = excluded.value_columns,
            updated_at = now()
        where (series.name, series.description, series.time_column, series.value_columns)
            is distinct from (excluded.name, excluded.description, excluded.time_column, excluded.value_columns)
    )
    select count(*) from conflicting
$$;

-- Adds points, sorted and each once, or sets their values if those that are there are of earlier messages. A message is
-- later than another by its time, and of the same time by its offset, partition and source, as for series definitions. The
-- versions are locked in the order of the points, and only who has a version's lock comes to its point. p_sources has numbers
-- that p_source_keys names, each at the index of p_source_numbers: the caller orders messages by them, too.
-- The planner does not know how long arrays are, and would compare each row with each.
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

-- Stores dead letters, in the transaction that claims their offsets and after the claim. A sample takes the place of the one
-- before it, which is then only counted; returns how many were replaced.
create function ingest_add_dead_letters(
    p_sources uuid[], p_partitions integer[], p_offsets bigint[], p_times_ms bigint[], p_keys bytea[], p_headers bytea[],
    p_payloads bytea[], p_payload_bytes bigint[], p_reasons text[], p_details text[], p_samples boolean[],
    p_publish boolean, p_key_bytes bigint[], p_headers_bytes bigint[])
returns bigint
language plpgsql as $$
declare
    replaced_samples bigint := 0;
    numbers integer[] := array(
        select ingest_source_number(source_key) from unnest(p_sources) with ordinality as t (source_key, place) order by place);
begin
    if true = any (p_samples) then
        with replaced as (
            delete from ingest_dead_letter as letter
            using unnest(numbers, p_partitions, p_offsets, p_reasons, p_samples)
                as new (source_id, partition, "offset", reason, is_sample)
            where new.is_sample and letter.is_sample and letter.source_id = new.source_id
                and letter.partition = new.partition and letter.reason = new.reason
            returning letter.source_id, letter.partition, letter.reason, letter."offset", new."offset" as by_offset
        )
        insert into ingest_dead_letter_count as known
            (source_id, partition, reason, only_counted, first_offset, last_offset)
        -- After progress was set back it may be the same message again.
        select source_id, partition, reason, 1, "offset", "offset" from replaced where "offset" <> by_offset order by 1, 2, 3
        on conflict (source_id, partition, reason) do update set
            only_counted = known.only_counted + 1,
            first_offset = least(known.first_offset, excluded.first_offset),
            last_offset = greatest(known.last_offset, excluded.last_offset);
        get diagnostics replaced_samples = row_count;
    end if;
    insert into ingest_dead_letter
        (source_id, partition, "offset", message_time, key, headers, payload, payload_bytes, reason, detail, is_sample,
         to_publish, key_bytes, headers_bytes)
    select source_id, partition, "offset", to_timestamp(ms / 1000.0), key, headers, payload, bytes, reason, detail,
        is_sample, p_publish, key_bytes, headers_bytes
    from unnest(numbers, p_partitions, p_offsets, p_times_ms, p_keys, p_headers, p_payloads, p_payload_bytes, p_reasons,
                p_details, p_samples, p_key_bytes, p_headers_bytes)
        as t (source_id, partition, "offset", ms, key, headers, payload, bytes, reason, detail, is_sample, key_bytes,
              headers_bytes)
    -- After progress was set back the message comes again, and may have another fault now.
    on conflict (source_id, partition, "offset") do update set
        payload = excluded.payload, headers = excluded.headers, key = excluded.key, key_bytes = excluded.key_bytes,
        headers_bytes = excluded.headers_bytes, reason = excluded.reason, detail = excluded.detail,
        created_at = now(), attempts = 0, attempted_at = null, is_sample = false, to_publish = excluded.to_publish;
    return replaced_samples;
end $$;

-- Counts dead letters that are not stored, in the same transaction.
create function ingest_count_dead_letters(
    p_sources uuid[], p_partitions integer[], p_reasons text[], p_counts bigint[],
    p_first_offsets bigint[], p_last_offsets bigint[])
returns void
language sql as $$
    insert into ingest_dead_letter_count as known
        (source_id, partition, reason, only_counted, first_offset, last_offset)
    select ingest_source_number(source_key), partition, reason, count, first_offset, last_offset
    from unnest(p_sources, p_partitions, p_reasons, p_counts, p_first_offsets, p_last_offsets)
        as t (source_key, partition, reason, count, first_offset, last_offset)
    order by 1, 2, 3
    on conflict (source_id, partition, reason) do update set
        only_counted = known.only_counted + excluded.only_counted,
        first_offset = least(known.first_offset, excluded.first_offset),
        last_offset = greatest(known.last_offset, excluded.last_offset)
$$;

do $$
declare
    name text;
begin
    foreach name in array array[
        'ingest_source_key(text, text, text, text)',
        'ingest_source_number(uuid)',
        'ingest_start(uuid, integer[], bigint[])',
        'ingest_probe()',
        'ingest_claim(uuid[], integer[], bigint[], bigint[])',
        'ingest_next_offsets(uuid[], integer[])',
        'ingest_claim_missing(uuid[], integer[], bigint[], bigint[])',
        'ingest_claim_journaled(uuid[], integer[], bigint[], bigint[])',
        'ingest_record_gap(uuid, integer, bigint, bigint, text)',
        'ingest_define_series(text[], text[], text[], text[], text[], bigint[], uuid[], integer[], bigint[])',
        'ingest_replace_points(text[], text[], timestamptz[], double precision[], bigint[], bigint[], integer[], integer[], integer[], uuid[])',
        'ingest_add_dead_letters(uuid[], integer[], bigint[], bigint[], bytea[], bytea[], bytea[], bigint[], text[], text[], boolean[], boolean, bigint[], bigint[])',
        'ingest_count_dead_letters(uuid[], integer[], text[], bigint[], bigint[], bigint[])'
    ] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', name, current_schema());
        execute format('revoke all on function %s from public', name);
    end loop;
end $$;
