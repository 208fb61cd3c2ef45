//! What the database remembers of its backups, for the metric of their age; and deleting old ones.

use std::path::Path;

use super::error::Error;
use super::folder::{Backup, Verification};
use crate::config;
use crate::database;

/// Has the database remember a backup.
///
/// # Errors
/// If the server does not answer, or accepts no writes.
pub async fn record(database: &config::Database, backup: &Backup) -> Result<(), Error> {
    let client = database::connect(database).await?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let path = std::path::absolute(&backup.path).unwrap_or_else(|_| backup.path.clone());
    let location = format!("{}:{}", host.trim(), path.display());
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let manifest = &backup.manifest;
    let sql = "insert into ingest_backup (id, created_at, location, bytes, points)
               values ($1::text::uuid, $2::text::timestamptz, $3, $4, $5) on conflict do nothing";
    let (bytes, points) = (number(manifest.dump.bytes), number(manifest.contents.points));
    client
        .execute(sql, &[&manifest.id, &manifest.created_at, &location, &bytes, &points])
        .await
        .map_err(Error::server("remember the backup"))?;
    Ok(())
}

/// Records that a backup was verified: in its folder, and in the database that it is of. Returns `false` if that database does
/// not remember the backup.
///
/// # Errors
/// If the folder cannot be written, or the server does not answer.
pub async fn record_verification(
    database: &config::Database,
    backup: &Backup,
    verification: &Verification,
) -> Result<bool, Error> {
    backup.record_verification(verification)?;
    let client = database::connect(database).await?;
    let sql = "update ingest_backup set verified_at = now() where id = $1::text::uuid";
    let changed =
        client.execute(sql, &[&backup.manifest.id]).await.map_err(Error::server("remember the verification"))?;
    Ok(changed > 0)
}

/// Deletes backups of the same database from the folder of this one, except the newest `keep`, and has the database forget
/// them. Returns those that were deleted.
///
/// # Errors
/// If one cannot be deleted, or the server does not answer.
pub async fn remove_older(database: &config::Database, backup: &Backup, keep: usize) -> Result<Vec<Backup>, Error> {
    let folder = backup.path.parent().unwrap_or(Path::new("."));
    let (mut found, _) = Backup::list(folder)?;
    found.retain(|other| other.manifest.origin.id == backup.manifest.origin.id);
    found.truncate(found.len().saturating_sub(keep.max(1)));
    for old in &found {
        old.remove()?;
    }
    let ids: Vec<&str> = found.iter().map(|old| old.manifest.id.as_str()).collect();
    if !ids.is_empty() {
        let client = database::connect(database).await?;
        let sql = "delete from ingest_backup where id = any ($1::text[]::uuid[])";
        client.execute(sql, &[&ids]).await.map_err(Error::server("forget old backups"))?;
    }
    Ok(found)
}
