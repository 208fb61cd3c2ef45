-- Backups that `backup create` has made of this database, so that its workers can report their age.

create table ingest_backup (
    id uuid primary key,
    created_at timestamptz not null,
    finished_at timestamptz not null default now(),
    location text not null,
    bytes bigint,
    points bigint,
    verified_at timestamptz
);

comment on table ingest_backup is 'backups of this database; a backup of another program may be added by an insert';
comment on column ingest_backup.created_at is 'the moment whose rows the backup has';
comment on column ingest_backup.location is 'where it was written: a host and a folder';
comment on column ingest_backup.verified_at is 'when it was last restored and compared; null: never';
