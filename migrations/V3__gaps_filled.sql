-- A gap can be filled: what Kafka no longer had may still be in the journal of a worker that comes back later. The row
-- stays, with the time at which it was filled.
alter table ingest_gap add column filled_at timestamptz;

comment on column ingest_gap.filled_at is 'when a journal still had these offsets and they were written; null: they are lost';

create or replace function ingest_record_gap(
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
            set until_offset = excluded.until_offset, detected_at = excluded.detected_at, filled_at = null
        returning ingest_gap.from_offset, ingest_gap.until_offset;
end $$;

-- The slow path for what a journal has: as ingest_claim_missing, and besides what of the intervals lies in gaps, which are
-- filled now. The lock of ingest_cover makes the answer true until the transaction ends.
create function ingest_claim_journaled(
    p_sources integer[], p_partitions integer[], p_from_offsets bigint[], p_until_offsets bigint[])
returns table (source_id integer, partition integer, from_offset bigint, until_offset bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    want record;
    gap record;
    missing int8multirange;
begin
    for want in
        select * from unnest(p_sources, p_partitions, p_from_offsets, p_until_offsets)
            as t (source_id, partition, from_offset, until_offset)
        order by 1, 2, 3
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
            select want.source_id, want.partition, lower(island), upper(island) from unnest(missing) as island;
    end loop;
end $$;

do $$
declare
    name text;
begin
    foreach name in array array[
        'ingest_record_gap(integer, integer, bigint, bigint, text)',
        'ingest_claim_journaled(integer[], integer[], bigint[], bigint[])'
    ] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', name, current_schema());
        execute format('revoke all on function %s from public', name);
    end loop;
end $$;
