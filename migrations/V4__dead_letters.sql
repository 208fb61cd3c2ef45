-- Dead letters: messages that cannot be stored. They can be found, sent again, counted beyond a limit, and published.

create table ingest_dead_letter (
    id bigint generated always as identity primary key,
    source_id integer not null references ingest_source (id),
    partition integer not null,
    "offset" bigint not null,
    message_time timestamptz,
    key bytea,
    payload bytea,
    payload_bytes bigint not null default 0,
    headers bytea,
    key_bytes bigint,
    headers_bytes bigint,
    reason text not null,
    detail text,
    created_at timestamptz not null default now(),
    attempts integer not null default 0,
    attempted_at timestamptz,
    is_sample boolean not null default false,
    to_publish boolean not null default false,
    unique (source_id, partition, "offset")
);

create index idx_ingest_dead_letter_created_at on ingest_dead_letter (created_at);
create index idx_ingest_dead_letter_to_publish on ingest_dead_letter (id) where to_publish;
create unique index idx_ingest_dead_letter_sample on ingest_dead_letter (source_id, partition, reason) where is_sample;

comment on column ingest_dead_letter.payload is 'the head of the message, bounded; payload_bytes has its full length';
comment on column ingest_dead_letter.headers is 'the message''s headers: src/batch/headers.rs has their form';
comment on column ingest_dead_letter.key_bytes is 'the key''s full length; null if it has none';
comment on column ingest_dead_letter.headers_bytes is 'the headers'' full length, in their form here; null if it has none';
comment on column ingest_dead_letter.attempts is 'how many times it was sent again unsuccessfully';
comment on column ingest_dead_letter.is_sample is
    'stored beyond dead_letter.max_rows: the next one of its partition and reason replaces it';
comment on column ingest_dead_letter.to_publish is 'a copy is still to be published to kafka.dead_letter_topic';

-- Exact numbers, without a count(*): kept is the number of rows of ingest_dead_letter. Triggers maintain it, so that a row that
-- an operator deletes is counted as well. Of the workers only the one that holds a partition's progress changes its rows.
create table ingest_dead_letter_count (
    source_id integer not null references ingest_source (id),
    partition integer not null,
    reason text not null,
    kept bigint not null default 0,
    only_counted bigint not null default 0,
    first_offset bigint,
    last_offset bigint,
    redriven bigint not null default 0,
    primary key (source_id, partition, reason)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

comment on column ingest_dead_letter_count.only_counted is
    'messages beyond dead_letter.max_rows, between first_offset and last_offset';

-- Each statement locks rows in one order. If two transactions wait for each other nevertheless, because they have several
-- statements, the server ends one of them, which is then tried again.
create function ingest_maintain_dead_letter_count() returns trigger
language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' then
        update ingest_dead_letter_count set kept = 0 where kept <> 0;
    elsif tg_op = 'INSERT' then
        insert into ingest_dead_letter_count as known (source_id, partition, reason, kept)
        select source_id, partition, reason, count(*) from added group by 1, 2, 3 order by 1, 2, 3
        on conflict (source_id, partition, reason) do update set kept = known.kept + excluded.kept;
    elsif tg_op = 'DELETE' then
        insert into ingest_dead_letter_count as known (source_id, partition, reason, kept)
        select source_id, partition, reason, -count(*) from removed group by 1, 2, 3 order by 1, 2, 3
        on conflict (source_id, partition, reason) do update set kept = known.kept + excluded.kept;
    else
        insert into ingest_dead_letter_count as known (source_id, partition, reason, kept)
        select source_id, partition, reason, sum(change)
        from (select source_id, partition, reason, 1 as change from added
              union all select source_id, partition, reason, -1 from removed) as changed
        group by 1, 2, 3 having sum(change) <> 0 order by 1, 2, 3
        on conflict (source_id, partition, reason) do update set kept = known.kept + excluded.kept;
    end if;
    return null;
end $$;

create trigger count_added after insert on ingest_dead_letter
    referencing new table as added for each statement execute function ingest_maintain_dead_letter_count();
create trigger count_removed after delete on ingest_dead_letter
    referencing old table as removed for each statement execute function ingest_maintain_dead_letter_count();
create trigger count_changed after update on ingest_dead_letter
    referencing old table as removed new table as added for each statement
    execute function ingest_maintain_dead_letter_count();
create trigger count_truncated after truncate on ingest_dead_letter
    for each statement execute function ingest_maintain_dead_letter_count();

-- Returns how many more dead letters may be stored. Transactions that are open at the same time do not see each other's, and may
-- exceed the limit by as many as they write.
create function ingest_dead_letter_capacity(p_max_rows bigint) returns bigint
language sql stable as $$
    select greatest(p_max_rows - coalesce(sum(kept), 0), 0)::bigint from ingest_dead_letter_count
$$;

-- Returns whether a message of the source was ever accepted, and the number of its dead letters, stored or only counted.
create function ingest_acceptance(p_source uuid, out is_accepted boolean, out dead_letters bigint)
language sql stable as $$
    select accepted_at is not null, coalesce((
        select sum(kept + only_counted) from ingest_dead_letter_count where source_id = ingest_source.id), 0)::bigint
    from ingest_source where id = ingest_source_number(p_source)
$$;

-- Stores dead letters, in the transaction that claims their offsets and after the claim. A sample replaces the one before it,
-- which is then only counted; returns how many were replaced.
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

-- Counts dead letters that are not stored, in the transaction that claims their offsets.
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

-- Returns the first dead letters after the id p_after that have a copy to be published, and locks them until the transaction
-- ends; those that another worker is publishing are skipped. A caller goes through them page by page: those whose message
-- cannot be read from Kafka now must not hide the ones after them.
create function ingest_dead_letters_to_publish(p_pipeline text, p_after bigint, p_limit integer)
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

create function ingest_mark_dead_letters_published(p_ids bigint[]) returns void
language sql as $$
    update ingest_dead_letter set to_publish = false where id = any (p_ids)
$$;

select ingest_secure_functions(array[
    'ingest_maintain_dead_letter_count', 'ingest_dead_letter_capacity', 'ingest_acceptance', 'ingest_add_dead_letters',
    'ingest_count_dead_letters', 'ingest_dead_letters_to_publish', 'ingest_mark_dead_letters_published'
]);
