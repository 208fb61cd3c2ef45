-- Series: definitions from messages, and series that other programs insert, change and delete in the same table. A name is
-- optional, what such a program reads is never NULL, and a series that is deleted takes its points with it.

-- A series' state besides its row: the message of its definition, so that a replay never puts an older definition over a newer
-- one, the labels of the definition, which points do not change, and the columns that its points have had.
create table ingest_series (
    series_id text collate "C" primary key,
    defined_columns text[],
    defined_labels jsonb,
    seen_columns text[] not null default '{}',
    message_time timestamptz,
    source_id integer,
    partition integer,
    "offset" bigint
);

-- Deletions of series: messages that are not newer than one no longer count, whatever they come from: Kafka that is read again, a
-- journal, or a dead letter. Points at or after the time before_time stay, and their series with them.
create table ingest_series_tombstone (
    series_id text collate "C" not null,
    before_time timestamptz not null default 'infinity',
    message_ms bigint not null,
    deleted_at timestamptz not null default now(),
    completed_at timestamptz,
    points bigint not null default 0,
    dead_letters bigint not null default 0,
    series_deleted boolean not null default false,
    primary key (series_id, before_time)
);

create index idx_ingest_series_tombstone_pending on ingest_series_tombstone (deleted_at) where completed_at is null;

comment on column ingest_series_tombstone.before_time is 'points before this time are deleted; infinity: the series with all of them';
comment on column ingest_series_tombstone.message_ms is
    'the Kafka time, in ms since the Unix epoch, up to which messages no longer count';
comment on column ingest_series_tombstone.points is 'how many points were deleted, by commands and workers together';
comment on column ingest_series_tombstone.completed_at is 'when the points were gone; null: they are being deleted';

-- Counts changes by other programs that invalidate what workers have cached of series: they then read their series again.
create sequence ingest_series_change;

create function ingest_series_changes() returns bigint
language sql volatile as $$
    -- Before the first call of nextval, last_value is the number that the call will return.
    select last_value + is_called::integer from ingest_series_change
$$;

-- Returns the names in a JSON array; NULL if the text is not one.
create function ingest_parse_columns(p_text text) returns text[]
language plpgsql immutable as $$
begin
    return array(
        select name from json_array_elements_text(p_text::json) with ordinality as t (name, place)
        where name is not null order by place);
exception when data_exception or program_limit_exceeded then
    return null;
end $$;

-- Returns value_columns: the columns of the definition in their order, then the others, sorted.
create function ingest_value_columns(p_defined text[], p_seen text[]) returns text
language sql immutable as $$
    select to_json(coalesce(p_defined, '{}') || array(
        select seen from unnest(p_seen) as seen
        where not seen = any (coalesce(p_defined, '{}'))
        order by seen collate "C"
    ))::text
$$;

-- Returns an object without the keys of another one. What is not an object, as another program may have written it, counts as
-- an empty one.
create function ingest_without_keys(p_object jsonb, p_keys jsonb) returns jsonb
language sql immutable as $$
    select case when jsonb_typeof(p_object) = 'object'
        then p_object - array(select jsonb_object_keys(coalesce(p_keys, '{}')))
        else '{}' end
$$;

-- Locks the rows of these series, in one order, against being deleted or changed before the transaction ends; creates missing
-- ones as placeholders.
create function ingest_lock_or_create_series(p_ids text[]) returns void
language sql as $$
    insert into time_series_metadata as series (id, time_column, value_columns)
    select distinct on (id collate "C") id, 'timestamp', '[]' from unnest(p_ids) as id order by id collate "C"
    -- Changes nothing, and locks the row nevertheless.
    on conflict (id) do update set updated_at = series.updated_at where false
$$;

-- Returns definitions as rows, one for each place of the arrays, except those that a deletion of their series follows. p_columns holds JSON arrays, p_message_ms Kafka's times, and
-- p_labels JSON objects, or NULL if a definition leaves the labels unchanged.
create function ingest_parse_definitions(
    p_ids text[], p_names text[], p_descriptions text[], p_time_columns text[], p_columns text[],
    p_message_ms bigint[], p_sources uuid[], p_partitions integer[], p_offsets bigint[], p_labels text[])
returns table (
    id text, name text, description text, time_column text, columns text[], message_time timestamptz,
    source_id integer, partition integer, "offset" bigint, labels jsonb)
language sql stable as $$
    select
        id, name, description, coalesce(time_column, 'timestamp'),
        array(select json_array_elements_text(columns::json)), to_timestamp(message_ms / 1000.0),
        ingest_source_number(source_key), partition, "offset", labels::jsonb
    from unnest(p_ids, p_names, p_descriptions, p_time_columns, p_columns,
                p_message_ms, p_sources, p_partitions, p_offsets, p_labels)
        as t (id, name, description, time_column, columns, message_ms, source_key, partition, "offset", labels)
    where not exists (
        select from ingest_series_tombstone as deleted
        where deleted.series_id = t.id and deleted.before_time = 'infinity' and deleted.message_ms >= t.message_ms)
$$;

-- Creates or updates series by their definitions, given as to ingest_parse_definitions, if these are newer than the stored ones.
-- Of two definitions the one with the later Kafka time is newer, then the one with the higher offset. Returns how many of them
-- differ from what another message says of the same series. The rows of time_series_metadata are locked before those of
-- ingest_series, as by a program that deletes a series.
create function ingest_define_series(
    p_ids text[], p_names text[], p_descriptions text[], p_time_columns text[], p_columns text[],
    p_message_ms bigint[], p_sources uuid[], p_partitions integer[], p_offsets bigint[], p_labels text[] default '{}')
returns bigint
language plpgsql as $$
#variable_conflict use_column
declare
    conflicts bigint;
    freed bigint;
begin
    with given as (
        select * from ingest_parse_definitions(
            p_ids, p_names, p_descriptions, p_time_columns, p_columns, p_message_ms, p_sources, p_partitions, p_offsets,
            p_labels)
    ), definition as (
        select distinct on (id collate "C") *
        from given
        order by id collate "C", message_time desc, "offset" desc, partition desc, source_id desc
    )
    -- Another message, before this statement or in it, defines the same series otherwise.
    select count(*) into conflicts from given
    join definition on definition.id = given.id
    left join ingest_series as stored on stored.series_id = given.id and stored.message_time is not null
        and (stored.source_id, stored.partition, stored."offset") <> (given.source_id, given.partition, given."offset")
    left join time_series_metadata as series on series.id = stored.series_id
    where (given.name, given.description, given.time_column, given.columns)
            is distinct from (definition.name, definition.description, definition.time_column, definition.columns)
        or coalesce(given.labels <> definition.labels, false)
        or series.id is not null
            and ((given.name, given.description, given.time_column, given.columns)
                    is distinct from (series.name, series.description, series.time_column, stored.defined_columns)
                or coalesce(given.labels <> stored.defined_labels, false));

    perform ingest_lock_or_create_series(array(
        select id from ingest_parse_definitions(
            p_ids, p_names, p_descriptions, p_time_columns, p_columns, p_message_ms, p_sources, p_partitions, p_offsets,
            p_labels)));

    with given as (
        select * from ingest_parse_definitions(
            p_ids, p_names, p_descriptions, p_time_columns, p_columns, p_message_ms, p_sources, p_partitions, p_offsets,
            p_labels)
    ), definition as (
        select distinct on (id collate "C") *
        from given
        order by id collate "C", message_time desc, "offset" desc, partition desc, source_id desc
    ), labelled as (
        -- What the newest of them that has labels says of them, unless what is stored is newer.
        select distinct on (given.id collate "C") given.id, given.labels, stored.defined_labels as before
        from given left join ingest_series as stored on stored.series_id = given.id
        where given.labels is not null
            and (stored.message_time is null
                or (given.message_time, given."offset", given.partition, given.source_id)
                    >= (stored.message_time, stored."offset", stored.partition, stored.source_id))
        order by given.id collate "C", given.message_time desc, given."offset" desc, given.partition desc,
            given.source_id desc
    ), newer as (
        -- Columns that another program has written into the row stay in it, as if points had had them.
        insert into ingest_series as stored
            (series_id, defined_columns, defined_labels, seen_columns, message_time, source_id, partition, "offset")
        select definition.id, definition.columns, labelled.labels, coalesce(ingest_parse_columns(series.value_columns), '{}'),
            definition.message_time, definition.source_id, definition.partition, definition."offset"
        from definition join time_series_metadata as series on series.id = definition.id
        left join labelled on labelled.id = definition.id
        order by definition.id collate "C"
        on conflict (series_id) do update set
            defined_columns = excluded.defined_columns,
            defined_labels = coalesce(excluded.defined_labels, stored.defined_labels),
            seen_columns = array(
                select distinct name from unnest(stored.seen_columns || excluded.seen_columns) as name
                where name = any (stored.seen_columns) or not name = any (coalesce(stored.defined_columns, '{}'))),
            message_time = excluded.message_time,
            source_id = excluded.source_id,
            partition = excluded.partition,
            "offset" = excluded."offset"
        where stored.message_time is null
            or (excluded.message_time, excluded."offset", excluded.partition, excluded.source_id)
                >= (stored.message_time, stored."offset", stored.partition, stored.source_id)
        returning series_id, ingest_value_columns(defined_columns, seen_columns) as value_columns
    ), after as (
        -- The labels of points and of other programs stay; those that only the previous definition had are removed.
        select definition.*, newer.value_columns, case when labelled.id is null then series.labels else
            nullif(ingest_without_keys(series.labels, labelled.before) || labelled.labels, '{}') end as all_labels
        from definition join newer on newer.series_id = definition.id
        join time_series_metadata as series on series.id = definition.id
        left join labelled on labelled.id = definition.id
    ), changed as (
        update time_series_metadata as series set
            name = after.name,
            description = after.description,
            time_column = after.time_column,
            value_columns = after.value_columns,
            labels = after.all_labels,
            updated_at = now()
        from after
        where series.id = after.id
            and (series.name, series.description, series.time_column, series.value_columns, series.labels)
                is distinct from (after.name, after.description, after.time_column, after.value_columns, after.all_labels)
    )
    select count(*) into freed from labelled join newer on newer.series_id = labelled.id
    where ingest_without_keys(labelled.before, labelled.labels) <> '{}';
    if freed > 0 then
        -- Points may set these labels again, which workers have not written while the definition had them.
        perform nextval('ingest_series_change');
    end if;
    return conflicts;
end $$;

-- Ensures that each series of the (series, column) pairs has a row, and that its columns are listed. Columns that another
-- program has written into the row stay: the others are added after them. A text that is not a JSON array is replaced by one.
-- Likewise each of the series p_labelled gets its labels of p_labels, JSON objects, except those that a definition has.
create function ingest_ensure_series(
    p_ids text[], p_columns text[], p_labelled text[] default '{}', p_labels text[] default '{}') returns void
language plpgsql as $$
#variable_conflict use_column
begin
    -- All rows at once: in two steps their order would be another, and two transactions could wait for each other.
    perform ingest_lock_or_create_series(p_ids || p_labelled);

    with pair as (
        select id, array_agg(distinct column_name) as columns
        from unnest(p_ids, p_columns) as t (id, column_name) group by id
    ), before as (
        select pair.id, pair.columns, ingest_parse_columns(series.value_columns) as listed,
            coalesce(stored.defined_columns, '{}') as defined, coalesce(stored.seen_columns, '{}') as seen
        from pair join time_series_metadata as series on series.id = pair.id
        left join ingest_series as stored on stored.series_id = pair.id
    ), after as (
        select id, defined, array(select distinct unnest(seen || columns)) as seen, listed,
            listed is null or listed = ingest_parse_columns(ingest_value_columns(defined, seen)) as is_ours
        from before
    ), noted as (
        insert into ingest_series as stored (series_id, seen_columns)
        select id, seen from after order by id collate "C"
        on conflict (series_id) do update set seen_columns = excluded.seen_columns
        where not stored.seen_columns @> excluded.seen_columns
    ), changed as (
        select id, case when is_ours then ingest_value_columns(defined, seen) else ingest_value_columns(listed, seen) end
            as value_columns
        from after
    )
    update time_series_metadata as series set value_columns = changed.value_columns, updated_at = now()
    from changed
    where series.id = changed.id
        -- Another spelling of the same list stays as well.
        and ingest_parse_columns(series.value_columns) is distinct from ingest_parse_columns(changed.value_columns);

    with given as (
        select id, labels::jsonb as labels from unnest(p_labelled, p_labels) as t (id, labels)
    ), changed as (
        select series.id, nullif(
            ingest_without_keys(series.labels, null) || ingest_without_keys(given.labels, stored.defined_labels),
            '{}') as labels
        from given join time_series_metadata as series on series.id = given.id
        left join ingest_series as stored on stored.series_id = given.id
    )
    update time_series_metadata as series set labels = changed.labels, updated_at = now()
    from changed
    where series.id = changed.id and series.labels is distinct from changed.labels;
end $$;

-- After another program has set a series' columns: those that it omits are no longer known, and are listed again when points of
-- them come.
create function ingest_columns_changed() returns trigger
language plpgsql as $$
declare
    listed text[] := coalesce(ingest_parse_columns(new.value_columns), '{}');
begin
    update ingest_series set seen_columns = array(select name from unnest(seen_columns) as name where name = any (listed))
    where series_id = new.id and not seen_columns <@ listed;
    if found then
        perform nextval('ingest_series_change');
    end if;
    return null;
end $$;

create trigger ingest_columns_changed after update of value_columns on time_series_metadata
    for each row when (old.value_columns is distinct from new.value_columns) execute function ingest_columns_changed();

-- Deletes what belongs to a series: its points, unless a foreign key deletes them, as none does in the profile throughput; and
-- its state. A definition, columns or versions that stayed would decide about a later series with the same id.
create function ingest_series_removed() returns trigger
language plpgsql as $$
begin
    if not exists (
        select from pg_constraint
        where conrelid = 'time_series_data_points'::regclass and confrelid = 'time_series_metadata'::regclass
            and contype = 'f')
    then
        -- The change of the row has waited for all transactions that write its points. A snapshot older than that does not see
        -- these points, and they would stay.
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            raise exception using
                errcode = 'feature_not_supported',
                message = 'a series is deleted in a transaction of the isolation level read committed only',
                hint = 'In the profile throughput no foreign key looks after its points, and another level may miss some.';
        end if;
        if tg_op = 'DELETE' then
            delete from time_series_data_points where time_series_id = old.id;
        elsif exists (select from time_series_data_points where time_series_id = old.id) then
            raise exception using
                errcode = 'foreign_key_violation',
                message = format('the series %L has points, and its id cannot be changed', old.id);
        end if;
    end if;
    delete from ingest_point_version where time_series_id = old.id;
    delete from ingest_series where series_id = old.id;
    perform nextval('ingest_series_change');
    return null;
end $$;

create trigger ingest_series_deleted after delete on time_series_metadata
    for each row execute function ingest_series_removed();
create trigger ingest_series_renamed after update of id on time_series_metadata
    for each row when (old.id is distinct from new.id) execute function ingest_series_removed();

-- With a foreign key the points are truncated by the same statement. A table that the statement names itself is empty here, and
-- must not be truncated again.
create function ingest_series_truncated() returns trigger
language plpgsql as $$
begin
    if exists (select from time_series_data_points) then
        truncate time_series_data_points;
    end if;
    if exists (select from ingest_point_version) then
        truncate ingest_point_version;
    end if;
    if exists (select from ingest_series) then
        truncate ingest_series;
    end if;
    perform nextval('ingest_series_change');
    return null;
end $$;

create trigger ingest_series_truncated after truncate on time_series_metadata
    for each statement execute function ingest_series_truncated();

select ingest_secure_functions(array[
    'ingest_series_changes', 'ingest_parse_columns', 'ingest_lock_or_create_series', 'ingest_parse_definitions',
    'ingest_define_series', 'ingest_ensure_series', 'ingest_columns_changed', 'ingest_series_removed', 'ingest_series_truncated'
]);
