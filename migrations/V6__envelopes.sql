-- What is cut of a dead letter's key and headers shows, and definitions of a series that differ are counted.

alter table ingest_dead_letter
    add column key_bytes bigint,
    add column headers_bytes bigint;

comment on column ingest_dead_letter.key_bytes is 'the key''s full length; null where it has none, or is older than this column';
comment on column ingest_dead_letter.headers_bytes is 'the headers'' full length, in their form here; null as with key_bytes';

drop function ingest_add_dead_letters(
    integer[], integer[], bigint[], bigint[], bytea[], bytea[], bytea[], bigint[], text[], text[], boolean[], boolean);

-- As before, with the full lengths of keys and headers, and without counting a sample that takes its own place.
create function ingest_add_dead_letters(
    p_sources integer[], p_partitions integer[], p_offsets bigint[], p_times_ms bigint[], p_keys bytea[], p_headers bytea[],
    p_payloads bytea[], p_payload_bytes bigint[], p_reasons text[], p_details text[], p_samples boolean[],
    p_publish boolean, p_key_bytes bigint[], p_headers_bytes bigint[])
returns bigint
language plpgsql as $$
declare
    replaced_samples bigint := 0;
begin
    if true = any (p_samples) then
        with replaced as (
            delete from ingest_dead_letter as letter
            using unnest(p_sources, p_partitions, p_offsets, p_reasons, p_samples)
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
    from unnest(p_sources, p_partitions, p_offsets, p_times_ms, p_keys, p_headers, p_payloads, p_payload_bytes, p_reasons,
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

drop function ingest_letters_to_publish(text, integer);

-- The first dead letters behind this id of which a copy is to be published, locked until the transaction ends; those that another
-- worker is publishing are passed over. Page by page, so that those whose message cannot be read from Kafka now hide none behind
-- them.
create function ingest_letters_to_publish(p_pipeline text, p_after bigint, p_limit integer)
returns table (
    id bigint, cluster_id text, topic text, topic_id text, partition integer, "offset" bigint, time_ms bigint, key bytea,
    headers bytea, payload bytea, payload_bytes bigint, reason text, detail text,
    key_bytes bigint, headers_bytes bigint)
language sql as $$
    select letter.id, source.cluster_id, source.topic, source.topic_id, letter.partition, letter."offset",
        (extract(epoch from letter.message_time) * 1000)::bigint, letter.key, letter.headers, letter.payload,
        letter.payload_bytes, letter.reason, letter.detail,
        letter.key_bytes, letter.headers_bytes
    from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
    where letter.to_publish and source.pipeline = p_pipeline and letter.id > p_after
    order by letter.id limit p_limit
    for update of letter skip locked
$$;

drop function ingest_define_series(
    text[], text[], text[], text[], text[], bigint[], integer[], integer[], bigint[]);

-- Creates or updates series by their definitions, where these are newer than what is stored. The answer is how many of them
-- differ from what another message says of the same series.
create function ingest_define_series(
    p_ids text[], p_names text[], p_descriptions text[], p_time_columns text[], p_columns text[],
    p_message_ms bigint[], p_sources integer[], p_partitions integer[], p_offsets bigint[])
returns bigint
language sql as $$
    with given as (
        select
            id, name, description, time_column,
            array(select json_array_elements_text(columns::json)) as columns,
            to_timestamp(message_ms / 1000.0) as message_time, source_id, partition, "offset"
        from unnest(p_ids, p_names, p_descriptions, p_time_columns, p_columns,
                    p_message_ms, p_sources, p_partitions, p_offsets)
            as t (id, name, description, time_column, columns, message_ms, source_id, partition, "offset")
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

do $$
declare
    name text;
begin
    foreach name in array array[
        'ingest_add_dead_letters(integer[], integer[], bigint[], bigint[], bytea[], bytea[], bytea[], bigint[], text[], text[], boolean[], boolean, bigint[], bigint[])',
        'ingest_letters_to_publish(text, bigint, integer)',
        'ingest_define_series(text[], text[], text[], text[], text[], bigint[], integer[], integer[], bigint[])'
    ] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', name, current_schema());
        execute format('revoke all on function %s from public', name);
    end loop;
end $$;
