-- The tables of the time series analyzer. Names of columns and indexes, and types, are a contract: see docs/schema.md.
-- `migrate` makes the points a hypertable after the migrations, in a step that it repeats: the server may get the extension
-- later.

create table time_series_metadata (
    id text collate "C" primary key,
    name text,
    description text,
    time_column text not null default 'timestamp',
    value_columns text not null default '[]',
    labels jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create index idx_time_series_metadata_created_at on time_series_metadata (created_at);
create index idx_time_series_metadata_time_column on time_series_metadata (time_column);
create index idx_time_series_metadata_labels on time_series_metadata using gin (labels jsonb_path_ops);

comment on column time_series_metadata.value_columns is 'a JSON array of column names';
comment on column time_series_metadata.labels is 'a JSON object; null: there are none';

-- The identity's cache is large because each writer's connection takes one for every point of a batch.
create table time_series_data_points (
    id bigint generated always as identity (cache 10000),
    time_series_id text collate "C" not null,
    "timestamp" timestamptz not null,
    column_name text collate "C" not null,
    value double precision,
    constraint time_series_data_points_pkey primary key (id, "timestamp"),
    constraint time_series_data_points_time_series_id_fkey
        foreign key (time_series_id) references time_series_metadata (id) on delete cascade
);

create index idx_time_series_data_points_timestamp
    on time_series_data_points ("timestamp");
create index idx_time_series_data_points_series_time
    on time_series_data_points (time_series_id, "timestamp");
create index idx_time_series_data_points_series_column
    on time_series_data_points (time_series_id, column_name);
create index idx_time_series_data_points_series_column_time
    on time_series_data_points (time_series_id, column_name, "timestamp");
