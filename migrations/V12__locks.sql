-- Locks of others: what a transaction of the worker would wait for, and who holds it.

-- The series of these whose rows another transaction holds, so that a write of them would wait. p_points: series that only get
-- points, whose row in time_series_metadata is locked for key share. p_rows: series whose rows are made or changed.
create function ingest_locked_series(p_points text[], p_rows text[])
returns setof text
language plpgsql as $$
declare
    one text;
    visible text[];
begin
    -- A lock on a whole table ends the question soon, and is no answer to it.
    perform set_config('lock_timeout', '100ms', true);
    -- A row that another transaction has made and not committed is not visible: only making it, too, shows that it is there.
    -- This comes first, so that no row is locked while it waits.
    visible := array(select id from time_series_metadata where id = any (p_rows));
    for one in select id from unnest(p_rows) as id where not id = any (visible) limit 1000 loop
        begin
            perform ingest_see_columns(array[one], array['']);
            raise exception using errcode = 'IC100';
        exception
            when lock_not_available then
                return next one;
                -- Who has made one has mostly made others: they are not waited for as long.
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

-- The partitions of a pipeline whose progress another transaction holds.
create function ingest_locked_partitions(p_pipeline text)
returns table (cluster_id text, topic text, topic_id text, partition integer)
language plpgsql as $$
#variable_conflict use_column
declare
    one record;
begin
    perform set_config('lock_timeout', '300ms', true);
    -- For share: workers that ask at the same time are not in each other's way.
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
        -- A worker's own claim lasts for its COMMIT only: what is free again soon is not locked.
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

-- Who holds the locks that this role's sessions of this program wait for. Sessions that wait themselves are left out: whoever
-- they wait for is named. held_since is the begin of the transaction that holds the lock, where the owner of this function may
-- see it, waiting_since that of the longest wait for it.
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

do $$
declare
    name text;
begin
    foreach name in array array[
        'ingest_locked_series(text[], text[])',
        'ingest_locked_partitions(text)',
        'ingest_lock_waits()'
    ] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', name, current_schema());
        execute format('revoke all on function %s from public', name);
    end loop;
end $$;
