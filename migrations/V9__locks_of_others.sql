-- Locks of others: which rows that the worker needs are locked by another transaction, and which sessions hold the locks.

-- Returns those of these series whose rows another transaction has locked, so that writing them would wait. p_points: series that
-- only get points, whose row in time_series_metadata is locked for key share. p_rows: series whose rows are created or changed.
create function ingest_locked_series(p_points text[], p_rows text[])
returns setof text
language plpgsql as $$
declare
    one text;
    visible text[];
begin
    -- A lock on a whole table ends the call soon, with an error: it says nothing about rows.
    perform set_config('lock_timeout', '100ms', true);
    -- A row that another transaction has inserted and not committed is not visible: only an attempt to insert it, too, shows
    -- that it is there. This comes first, so that no row is locked while it waits.
    visible := array(select id from time_series_metadata where id = any (p_rows));
    for one in select id from unnest(p_rows) as id where not id = any (visible) limit 1000 loop
        begin
            perform ingest_ensure_series(array[one], array['']);
            raise exception using errcode = 'IC100';
        exception
            when lock_not_available then
                return next one;
                -- A transaction that has inserted one has mostly inserted others: wait less for them.
                perform set_config('lock_timeout', '2ms', true);
            when sqlstate 'IC100' then null;
        end;
    end loop;
    perform set_config('lock_timeout', '100ms', true);
    return query
        with free as materialized (
            select id from time_series_metadata where id = any (p_points) for key share skip locked
        )
        select series.id from time_series_metadata as series
        where series.id = any (p_points) and not exists (select from free where free.id = series.id);
    return query
        with free as materialized (
            select id from time_series_metadata where id = any (p_rows) for no key update skip locked
        )
        select series.id from time_series_metadata as series
        where series.id = any (p_rows) and not exists (select from free where free.id = series.id);
    return query
        with free as materialized (
            select series_id from ingest_series where series_id = any (p_rows) for no key update skip locked
        )
        select series.series_id::text from ingest_series as series
        where series.series_id = any (p_rows) and not exists (select from free where free.series_id = series.series_id);
end $$;

-- Returns the partitions of a pipeline whose progress another transaction has locked.
create function ingest_locked_partitions(p_pipeline text)
returns table (cluster_id text, topic text, topic_id text, partition integer)
language plpgsql as $$
#variable_conflict use_column
declare
    one record;
begin
    perform set_config('lock_timeout', '300ms', true);
    -- For share: workers that call this at the same time do not block each other.
    for one in
        with free as materialized (
            select source_id, partition from ingest_progress
            where source_id in (select id from ingest_source where pipeline = p_pipeline) for share skip locked
        )
        select progress.source_id, progress.partition, source.cluster_id::text, source.topic::text, source.topic_id::text
        from ingest_progress as progress join ingest_source as source on source.id = progress.source_id
        where source.pipeline = p_pipeline
            and not exists (
                select from free where free.source_id = progress.source_id and free.partition = progress.partition)
    loop
        -- A worker's own claim lasts only as long as its COMMIT: a row that is free again soon does not count as locked.
        begin
            perform from ingest_progress as progress
            where progress.source_id = one.source_id and progress.partition = one.partition for share;
        exception when lock_not_available then
            cluster_id := one.cluster_id;
            topic := one.topic;
            topic_id := one.topic_id;
            partition := one.partition;
            return next;
            perform set_config('lock_timeout', '20ms', true);
        end;
    end loop;
end $$;

-- Returns the sessions that hold the locks for which this role's sessions of this program wait. Sessions that wait themselves are
-- skipped: the ones that they wait for are returned. held_since is the begin of the transaction that holds the lock, if the owner
-- of this function may see it, waiting_since that of the longest wait for it.
create function ingest_lock_waits()
returns table (
    object text, pid integer, application_name text, username text, client text, state text, held_since timestamptz,
    waiting_since timestamptz)
language sql as $$
    with waiting as (
        select lock.pid,
            case when lock.locktype = 'relation' then format('the table %s', lock.relation::regclass)
                else coalesce(
                    (select format('a row of %s', own.relation::regclass) from pg_locks as own
                     where own.pid = lock.pid and own.locktype = 'tuple' limit 1),
                    'a row') end as object,
            lock.waitstart, activity.usename, activity.application_name
        from pg_locks as lock join pg_stat_activity as activity on activity.pid = lock.pid
        where not lock.granted and activity.datname = current_database()
    )
    select waiting.object, blocking.pid, holder.application_name, holder.usename::text, host(holder.client_addr),
        case when blocking.pid = 0 then 'prepared transaction' else holder.state end,
        case when blocking.pid = 0
            then (select min(prepared) from pg_prepared_xacts where database = current_database())
            else holder.xact_start end,
        min(waiting.waitstart)
    from waiting
    -- A prepared transaction has no process: it is called 0.
    cross join lateral unnest(pg_blocking_pids(waiting.pid)) as blocking (pid)
    left join pg_stat_activity as holder on holder.pid = blocking.pid
    where waiting.usename = session_user
        and waiting.application_name = current_setting('application_name')
        and not exists (select from waiting as other where other.pid = blocking.pid)
    group by 1, 2, 3, 4, 5, 6, 7
$$;

select ingest_secure_functions(array['ingest_locked_series', 'ingest_locked_partitions', 'ingest_lock_waits']);
