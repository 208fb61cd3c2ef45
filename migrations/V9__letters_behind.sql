-- Dead letters of which a copy is to be published are read page by page, so that those whose message cannot be read from Kafka now
-- hide none behind them.

drop function ingest_letters_to_publish(text, integer);

-- The first dead letters behind this id of which a copy is to be published, locked until the transaction ends; those that another
-- worker is publishing are passed over.
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

do $$
begin
    execute format(
        'alter function ingest_letters_to_publish(text, bigint, integer) security definer set search_path = %I, pg_temp',
        current_schema());
    revoke all on function ingest_letters_to_publish(text, bigint, integer) from public;
end $$;
