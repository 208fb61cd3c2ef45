-- Progress is stored in the database of the points, so that one transaction moves both. The functions are the whole protocol:
-- every transaction that writes points calls one of the claims. ARCHITECTURE.md has the invariants.

-- The identity of this database. A worker reads it on each new connection, to notice that it is connected to another one.
create table ingest_database (
    id uuid not null default gen_random_uuid(),
    created_at timestamptz not null default now(),
    only_row boolean primary key default true check (only_row)
);

insert into ingest_database default values;

-- A topic of a cluster, as a pipeline reads it. A topic that is deleted and recreated has another topic_id: it is another
-- source, and nothing of it has been read.
--
-- A source's number means nothing in another database: one that was dropped and recreated, or restored from a backup, gives
-- the same numbers to other sources. So workers know sources by their random keys only: the functions take keys, look up the
-- number in the transaction that uses it, and raise IC004 if there is none.
create table ingest_source (
    id integer generated always as identity primary key,
    key uuid not null unique default gen_random_uuid(),
    pipeline text collate "C" not null,
    cluster_id text collate "C" not null,
    topic text collate "C" not null,
    topic_id text collate "C" not null,
    created_at timestamptz not null default now(),
    accepted_at timestamptz,
    unique (pipeline, cluster_id, topic, topic_id)
);

comment on column ingest_source.key is 'what workers name the source by; random, so that no other source ever has it';
comment on column ingest_source.accepted_at is 'when a message of it was first stored; null: none was ever accepted';

-- Every offset below next_offset is applied; ahead holds the islands applied above it. Every write transaction updates the
-- row: half-filled pages keep these updates heap-only, and autovacuum starts at an absolute number of dead rows.
create table ingest_progress (
    source_id integer not null references ingest_source (id),
    partition integer not null check (partition >= 0),
    next_offset bigint not null check (next_offset >= 0),
    ahead int8multirange not null default '{}',
    updated_at timestamptz not null default now(),
    primary key (source_id, partition)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- Returns the key and the number of a source, and adds it if it is new. The number is for ordering only: no function takes it
-- as a source's name.
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

-- Returns the number of the source with this key in this database.
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

-- Records that messages of these sources were stored, and returns those for which that is recorded now. A row that another
-- transaction has locked is left for the next call: this one follows a commit, and nothing waits for it.
create function ingest_accept_sources(p_sources uuid[]) returns setof uuid
language plpgsql as $$
begin
    update ingest_source set accepted_at = now()
    where id in (
        select id from ingest_source where key = any (p_sources) and accepted_at is null for no key update skip locked);
    return query select key from ingest_source where key = any (p_sources) and accepted_at is not null;
end $$;

-- Returns the next offset of each partition; a partition without progress starts at the offset given for it.
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

-- Returns normally if the server accepts writes, and writes nothing.
create function ingest_probe() returns void
language sql as $$
    insert into ingest_progress (source_id, partition, next_offset) select 0, 0, 0 where false
$$;

-- Locks the partition's progress, covers [p_from, p_until), and returns the parts that were not covered before. Because of the
-- lock the result holds until the transaction ends: a second caller waits here, and then reads what the first has committed.
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

-- Returns the next offset of each of these partitions, as this transaction sees it.
create function ingest_next_offsets(p_sources uuid[], p_partitions integer[])
returns table (source_key uuid, partition integer, next_offset bigint)
language sql stable as $$
    select source.key, progress.partition, progress.next_offset
    from ingest_progress as progress join ingest_source as source on source.id = progress.source_id
    where (source.key, progress.partition) in (select * from unnest(p_sources, p_partitions))
$$;

-- Called after the points were copied (copy first). Raises IC001 if any offset was covered already, so that no second
-- transaction with the same messages can commit. Partitions are locked in one order, whatever the caller's order is.
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

-- Called before the points are copied (claim first). Covers the intervals and returns the parts that were not covered
-- before: exactly these the same transaction has to write.
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

-- Lets functions run with their owner's rights, so that the worker's role needs no right on the tables that they change. If they
-- had the caller's search_path, they could be made to use the caller's tables: it is fixed to this schema.
create function ingest_secure_functions(p_names text[]) returns void
language plpgsql as $$
declare
    function_name text;
begin
    foreach function_name in array p_names loop
        execute format(
            'alter function %I security definer set search_path = %I, pg_temp', function_name, current_schema());
        execute format('revoke all on function %I from public', function_name);
    end loop;
end $$;

revoke all on function ingest_secure_functions from public;

select ingest_secure_functions(array[
    'ingest_source_key', 'ingest_source_number', 'ingest_accept_sources', 'ingest_start', 'ingest_probe', 'ingest_cover',
    'ingest_next_offsets', 'ingest_claim', 'ingest_claim_missing'
]);
