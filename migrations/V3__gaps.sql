-- Gaps: offsets that Kafka no longer had when they were to be read. A gap can be filled later, because the journal of a worker
-- that comes back may still have its messages.

-- [from_offset, until_offset). The row of a filled gap stays, with the time at which it was filled.
create table ingest_gap (
    source_id integer not null references ingest_source (id),
    partition integer not null,
    from_offset bigint not null,
    until_offset bigint not null check (until_offset > from_offset),
    reason text not null,
    detected_at timestamptz not null default now(),
    filled_at timestamptz,
    primary key (source_id, partition, from_offset)
);

comment on column ingest_gap.filled_at is 'when a journal still had these offsets and they were written; null: they are lost';

-- Records [p_from, p_until), which Kafka no longer has, except the parts that are applied, and lets progress pass it.
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
        -- After progress was set back the same gap may be found again.
        on conflict (source_id, partition, from_offset) do update
            set until_offset = excluded.until_offset, detected_at = excluded.detected_at, filled_at = null
        returning ingest_gap.from_offset, ingest_gap.until_offset;
end $$;

-- Claim first, for messages of a journal: as ingest_claim_missing, and the parts of the intervals that lie in gaps are
-- returned as well, and are recorded as filled. The lock of ingest_cover makes the result hold until the transaction ends.
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

select ingest_secure_functions(array['ingest_record_gap', 'ingest_claim_journaled']);
