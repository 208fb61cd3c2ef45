-- Progress lives beside the points, so that one transaction moves both. The functions are the whole protocol: whoever
-- writes points calls one of them in the same transaction. ARCHITECTURE.md has the invariants.

-- A source is a topic as it was made once in one cluster: a topic deleted and made anew has another topic_id, and is
-- another source, of which nothing has been read.
create table ingest_source (
    id integer generated always as identity primary key,
    pipeline text collate "C" not null,
    cluster_id text collate "C" not null,
    topic text collate "C" not null,
    topic_id text collate "C" not null,
    created_at timestamptz not null default now(),
    unique (pipeline, cluster_id, topic, topic_id)
);

-- Every offset below next_offset is applied; ahead holds the islands applied above it. The row is updated by every
-- transaction: half-filled pages keep these updates heap-only, and vacuum comes by absolute numbers.
create table ingest_progress (
    source_id integer not null references ingest_source (id),
    partition integer not null check (partition >= 0),
    next_offset bigint not null check (next_offset >= 0),
    ahead int8multirange not null default '{}',
    updated_at timestamptz not null default now(),
    primary key (source_id, partition)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- Offsets that Kafka no longer had when they were to be read: [from_offset, until_offset).
create table ingest_gap (
    source_id integer not null references ingest_source (id),
    partition integer not null,
    from_offset bigint not null,
    until_offset bigint not null check (until_offset > from_offset),
    reason text not null,
    detected_at timestamptz not null default now(),
    primary key (source_id, partition, from_offset)
);

create table ingest_dead_letter (
    id bigint generated always as identity primary key,
    source_id integer not null references ingest_source (id),
    partition integer not null,
    "offset" bigint not null,
    message_time timestamptz,
    key bytea,
    payload bytea,
    payload_bytes bigint not null default 0,
    reason text not null,
    detail text,
    created_at timestamptz not null default now(),
    unique (source_id, partition, "offset")
);

create index idx_ingest_dead_letter_created_at on ingest_dead_letter (created_at);

comment on column ingest_dead_letter.payload is 'the head of the message, bounded; payload_bytes has its full length';

-- What is known of a series besides its row: the version of its definition, so that a replay never puts an older one
-- over a newer, and the columns its points have had.
create table ingest_series (
    series_id text collate "C" primary key,
    defined_columns text[],
    seen_columns text[] not null default '{}',
    message_time timestamptz,
    source_id integer,
    partition integer,
    "offset" bigint
);

create function ingest_source_id(p_pipeline text, p_cluster_id text, p_topic text, p_topic_id text) returns integer
language plpgsql as $$
declare
    found_id integer;
begin
    select id into found_id from ingest_source
    where pipeline = p_pipeline and cluster_id = p_cluster_id and topic = p_topic and topic_id = p_topic_id;
    if found_id is null then
        insert into ingest_source (pipeline, cluster_id, topic, topic_id)
        values (p_pipeline, p_cluster_id, p_topic, p_topic_id)
        on conflict do nothing;
        select id into strict found_id from ingest_source
        where pipeline = p_pipeline and cluster_id = p_cluster_id and topic = p_topic and topic_id = p_topic_id;
    end if;
    return found_id;
end $$;

-- The next offset of each partition; a partition never read before starts at the offset given for it.
create function ingest_start(p_source integer, p_partitions integer[], p_first_offsets bigint[])
returns table (partition integer, next_offset bigint)
language plpgsql as $$
#variable_conflict use_column
begin
    insert into ingest_progress (source_id, partition, next_offset)
    select p_source, want.partition, want.first_offset
    from unnest(p_partitions, p_first_offsets) as want (partition, first_offset)
    order by want.partition
    on conflict do nothing;
    return query
        select progress.partition, progress.next_offset
        from ingest_progress as progress
        where progress.source_id = p_source and progress.partition = any (p_partitions);
end $$;

-- Locks the partition's progress, covers [p_from, p_until), and returns what of it was not covered before. The lock makes
-- the answer true until the transaction ends: a second caller waits here, and then reads what the first has committed.
create function ingest_cover(p_source integer, p_partition integer, p_from bigint, p_until bigint)
returns int8multirange
language plpgsql as $$
declare
    progress ingest_progress;
    missing int8multirange;
    covered int8multirange;
    first_island int8range;
    new_next bigint;
begin
    select * into progress from ingest_progress
    where source_id = p_source and partition = p_partition
    for update;
    if not found then
        raise exception 'no progress row for source % partition %', p_source, p_partition using errcode = 'IC003';
    end if;
    if p_until <= progress.next_offset then
        return '{}';
    end if;
    missing := int8multirange(int8range(greatest(p_from, progress.next_offset), p_until)) - progress.ahead;
    if isempty(missing) then
        return missing;
    end if;
    covered := progress.ahead + missing;
    new_next := progress.next_offset;
    if lower(covered) <= new_next then
        select island into first_island from unnest(covered) as island limit 1;
        new_next := upper(first_island);
        covered := covered - int8multirange(first_island);
    end if;
    if (select count(*) from unnest(covered)) > 1024 then
        raise exception 'more than 1024 islands ahead of offset % of source % partition %',
            new_next, p_source, p_partition using errcode = 'IC002';
    end if;
    update ingest_progress
    set next_offset = new_next, ahead = covered, updated_at = clock_timestamp()
    where source_id = p_source and partition = p_partition;
    return missing;
end $$;

-- The fast path: called after the points were copied. Raises when any offset was covered already, so that no second
-- transaction with the same messages can commit. Partitions are locked in one order, whatever the caller's.
create function ingest_claim(
    p_sources integer[], p_partitions integer[], p_from_offsets bigint[], p_until_offsets bigint[])
returns table (source_id integer, partition integer, next_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    want record;
    missing int8multirange;
begin
    for want in
        select * from unnest(p_sources, p_partitions, p_from_offsets, p_until_offsets)
            as t (source_id, partition, from_offset, until_offset)
        order by 1, 2, 3
    loop
        missing := ingest_cover(want.source_id, want.partition, want.from_offset, want.until_offset);
        if missing <> int8multirange(int8range(want.from_offset, want.until_offset)) then
            raise exception 'offsets [%, %) of source % partition % are applied already, but for %',
                want.from_offset, want.until_offset, want.source_id, want.partition, missing
                using errcode = 'IC001';
        end if;
    end loop;
    return query
        select progress.source_id, progress.partition, progress.next_offset
        from ingest_progress as progress
        where (progress.source_id, progress.partition) in (select * from unnest(p_sources, p_partitions));
end $$;

-- The slow path: called before the points are copied. Covers the intervals and returns what of them was not covered
-- before: just this is to be written by the same transaction.
create function ingest_claim_missing(
    p_sources integer[], p_partitions integer[], p_from_offsets bigint[], p_until_offsets bigint[])
returns table (source_id integer, partition integer, from_offset bigint, until_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    want record;
begin
    for want in
        select * from unnest(p_sources, p_partitions, p_from_offsets, p_until_offsets)
            as t (source_id, partition, from_offset, until_offset)
        order by 1, 2, 3
    loop
        return query
            select want.source_id, want.partition, lower(island), upper(island)
            from unnest(ingest_cover(want.source_id, want.partition, want.from_offset, want.until_offset)) as island;
    end loop;
end $$;

-- Records that Kafka no longer has [p_from, p_until), for what of it is not applied, and lets progress pass it.
create function ingest_record_gap(
    p_source integer, p_partition integer, p_from bigint, p_until bigint, p_reason text)
returns table (from_offset bigint, until_offset bigint)
language plpgsql as $$
#variable_conflict use_column
begin
    return query
        insert into ingest_gap (source_id, partition, from_offset, until_offset, reason)
        select p_source, p_partition, lower(island), upper(island), p_reason
        from unnest(ingest_cover(p_source, p_partition, p_from, p_until)) as island
        -- After progress was set back the same gap may be met again.
        on conflict (source_id, partition, from_offset) do update
            set until_offset = greatest(ingest_gap.until_offset, excluded.until_offset), detected_at = excluded.detected_at
        returning ingest_gap.from_offset, ingest_gap.until_offset;
end $$;

create function ingest_value_columns(p_defined text[], p_seen text[]) returns text
language sql immutable as $$
    select to_json(coalesce(p_defined, '{}') || array(
        select seen from unnest(p_seen) as seen
        where not seen = any (coalesce(p_defined, '{}'))
        order by seen collate "C"
    ))::text
$$;

-- Creates or updates series by their definitions; p_columns holds JSON arrays, p_message_ms Kafka's times. Of two
-- definitions the one with the later Kafka time holds, then the one with the higher offset; an older one than the stored
-- changes nothing.
create function ingest_define_series(
    p_ids text[], p_names text[], p_descriptions text[], p_time_columns text[], p_columns text[],
    p_message_ms bigint[], p_sources integer[], p_partitions integer[], p_offsets bigint[])
returns void
language sql as $$
    with definition as (
        select distinct on (id collate "C")
            id, name, description, time_column,
            array(select json_array_elements_text(columns::json)) as columns,
            to_timestamp(message_ms / 1000.0) as message_time, source_id, partition, "offset"
        from unnest(p_ids, p_names, p_descriptions, p_time_columns, p_columns,
                    p_message_ms, p_sources, p_partitions, p_offsets)
            as t (id, name, description, time_column, columns, message_ms, source_id, partition, "offset")
        order by id collate "C", message_ms desc, "offset" desc, partition desc, source_id desc
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
    )
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
$$;

-- Makes sure that each series of the (series, column) pairs has a row, and that its columns are listed.
create function ingest_see_columns(p_ids text[], p_columns text[]) returns void
language plpgsql as $$
begin
    insert into ingest_series as stored (series_id, seen_columns)
    select pair.id, array_agg(distinct pair.column_name)
    from unnest(p_ids, p_columns) as pair (id, column_name)
    group by pair.id
    order by pair.id collate "C"
    on conflict (series_id) do update set
        seen_columns = array(select distinct unnest(stored.seen_columns || excluded.seen_columns))
    where not stored.seen_columns @> excluded.seen_columns;

    insert into time_series_metadata as series (id, name, value_columns)
    select stored.series_id, stored.series_id, ingest_value_columns(stored.defined_columns, stored.seen_columns)
    from ingest_series as stored
    where stored.series_id = any (p_ids)
    order by stored.series_id
    on conflict (id) do update set value_columns = excluded.value_columns, updated_at = now()
    where series.value_columns is distinct from excluded.value_columns;
end $$;

-- The worker's role needs no right on the tables these functions change. A definer's function with the caller's
-- search_path could be made to run the caller's tables: the path is fixed to the schema of this migration.
do $$
declare
    name text;
begin
    foreach name in array array[
        'ingest_source_id(text, text, text, text)',
        'ingest_start(integer, integer[], bigint[])',
        'ingest_cover(integer, integer, bigint, bigint)',
        'ingest_claim(integer[], integer[], bigint[], bigint[])',
        'ingest_claim_missing(integer[], integer[], bigint[], bigint[])',
        'ingest_record_gap(integer, integer, bigint, bigint, text)',
        'ingest_define_series(text[], text[], text[], text[], text[], bigint[], integer[], integer[], bigint[])',
        'ingest_see_columns(text[], text[])'
    ] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', name, current_schema());
        execute format('revoke all on function %s from public', name);
    end loop;
end $$;
