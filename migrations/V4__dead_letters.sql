-- Dead letters can be found, sent again, counted beyond a bound, and published.

alter table ingest_dead_letter
    add column headers bytea,
    add column attempts integer not null default 0,
    add column attempted_at timestamptz,
    add column is_sample boolean not null default false,
    add column to_publish boolean not null default false;

comment on column ingest_dead_letter.headers is 'the message''s headers: src/batch/headers.rs has their form';
comment on column ingest_dead_letter.attempts is 'how often it was sent again in vain';
comment on column ingest_dead_letter.is_sample is 'stored beyond dead_letter.max_rows: the next one of its partition and reason takes its place';
comment on column ingest_dead_letter.to_publish is 'a copy is still to be published to kafka.dead_letter_topic';

create index idx_ingest_dead_letter_to_publish on ingest_dead_letter (id) where to_publish;
create unique index idx_ingest_dead_letter_sample on ingest_dead_letter (source_id, partition, reason) where is_sample;

-- Exact numbers, without a count(*): kept is the number of rows of ingest_dead_letter, which triggers keep, so that also a
-- row that was deleted by hand is counted. Of the workers only the one that holds a partition's progress changes its rows.
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

comment on column ingest_dead_letter_count.only_counted is 'messages beyond dead_letter.max_rows, between first_offset and last_offset';

insert into ingest_dead_letter_count (source_id, partition, reason, kept)
select source_id, partition, reason, count(*) from ingest_dead_letter group by 1, 2, 3;

-- Each statement takes rows in one order. Where two transactions wait for each other all the same, because they have several
-- statements, the server ends one of them, which is then tried again.
create function ingest_count_kept() returns trigger
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
    referencing new table as added for each statement execute function ingest_count_kept();
create trigger count_removed after delete on ingest_dead_letter
    referencing old table as removed for each statement execute function ingest_count_kept();
create trigger count_changed after update on ingest_dead_letter
    referencing old table as removed new table as added for each statement execute function ingest_count_kept();
create trigger count_truncated after truncate on ingest_dead_letter
    for each statement execute function ingest_count_kept();

-- How many dead letters may still be stored. Transactions that are open at the same time do not see each other's: the bound
-- may be passed by what they write.
create function ingest_dead_letter_room(p_max_rows bigint) returns bigint
language sql stable as $$
    select greatest(p_max_rows - coalesce(sum(kept), 0), 0)::bigint from ingest_dead_letter_count
$$;

-- Stores dead letters, in the transaction that claims their offsets and after the claim. A sample takes the place of the one
-- before it, which is then only counted; the answer is how many were replaced.
create function ingest_add_dead_letters(
    p_sources integer[], p_partitions integer[], p_offsets bigint[], p_times_ms bigint[], p_keys bytea[], p_headers bytea[],
    p_payloads bytea[], p_payload_bytes bigint[], p_reasons text[], p_details text[], p_samples boolean[],
    p_publish boolean)
returns bigint
language plpgsql as $$
declare
    replaced_samples bigint := 0;
begin
    if true = any (p_samples) then
        with replaced as (
            delete from ingest_dead_letter as letter
            using unnest(p_sources, p_partitions, p_reasons, p_samples) as new (source_id, partition, reason, is_sample)
            where new.is_sample and letter.is_sample and letter.source_id = new.source_id
                and letter.partition = new.partition and letter.reason = new.reason
            returning letter.source_id, letter.partition, letter.reason, letter."offset"
        )
        insert into ingest_dead_letter_count as known
            (source_id, partition, reason, only_counted, first_offset, last_offset)
        select source_id, partition, reason, 1, "offset", "offset" from replaced order by 1, 2, 3
        on conflict (source_id, partition, reason) do update set
            only_counted = known.only_counted + 1,
            first_offset = least(known.first_offset, excluded.first_offset),
            last_offset = greatest(known.last_offset, excluded.last_offset);
        get diagnostics replaced_samples = row_count;
    end if;
    insert into ingest_dead_letter
        (source_id, partition, "offset", message_time, key, headers, payload, payload_bytes, reason, detail, is_sample,
         to_publish)
    select source_id, partition, "offset", to_timestamp(ms / 1000.0), key, headers, payload, bytes, reason, detail,
        is_sample, p_publish
    from unnest(p_sources, p_partitions, p_offsets, p_times_ms, p_keys, p_headers, p_payloads, p_payload_bytes, p_reasons,
                p_details, p_samples)
        as t (source_id, partition, "offset", ms, key, headers, payload, bytes, reason, detail, is_sample)
    -- After progress was set back the message comes again, and may have another fault now.
    on conflict (source_id, partition, "offset") do update set
        payload = excluded.payload, headers = excluded.headers, reason = excluded.reason, detail = excluded.detail,
        created_at = now(), attempts = 0, attempted_at = null, is_sample = false, to_publish = excluded.to_publish;
    return replaced_samples;
end $$;

-- Counts dead letters that are not stored, in the same transaction.
create function ingest_count_dead_letters(
    p_sources integer[], p_partitions integer[], p_reasons text[], p_counts bigint[],
    p_first_offsets bigint[], p_last_offsets bigint[])
returns void
language sql as $$
    insert into ingest_dead_letter_count as known
        (source_id, partition, reason, only_counted, first_offset, last_offset)
    select * from unnest(p_sources, p_partitions, p_reasons, p_counts, p_first_offsets, p_last_offsets) order by 1, 2, 3
    on conflict (source_id, partition, reason) do update set
        only_counted = known.only_counted + excluded.only_counted,
        first_offset = least(known.first_offset, excluded.first_offset),
        last_offset = greatest(known.last_offset, excluded.last_offset)
$$;

-- Dead letters of a pipeline of which a copy is to be published, locked until the transaction ends; those that another worker
-- is publishing are passed over.
create function ingest_letters_to_publish(p_pipeline text, p_limit integer)
returns table (
    id bigint, cluster_id text, topic text, topic_id text, partition integer, "offset" bigint, time_ms bigint, key bytea,
    headers bytea, payload bytea, payload_bytes bigint, reason text, detail text)
language sql as $$
    select letter.id, source.cluster_id, source.topic, source.topic_id, letter.partition, letter."offset",
        (extract(epoch from letter.message_time) * 1000)::bigint, letter.key, letter.headers, letter.payload,
        letter.payload_bytes, letter.reason, letter.detail
    from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
    where letter.to_publish and source.pipeline = p_pipeline
    order by letter.id limit p_limit
    for update of letter skip locked
$$;

create function ingest_letters_published(p_ids bigint[]) returns void
language sql as $$
    update ingest_dead_letter set to_publish = false where id = any (p_ids)
$$;

do $$
declare
    name text;
begin
    foreach name in array array[
        'ingest_count_kept()',
        'ingest_dead_letter_room(bigint)',
        'ingest_add_dead_letters(integer[], integer[], bigint[], bigint[], bytea[], bytea[], bytea[], bigint[], text[], text[], boolean[], boolean)',
        'ingest_count_dead_letters(integer[], integer[], text[], bigint[], bigint[], bigint[])',
        'ingest_letters_to_publish(text, integer)',
        'ingest_letters_published(bigint[])'
    ] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', name, current_schema());
        execute format('revoke all on function %s from public', name);
    end loop;
end $$;
