//! The backups that the database remembers: their ages, for metrics.

use super::{Database, Error, Step};

/// The ages of backups, in seconds by the server's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BackupAges {
    /// That of the newest backup; `None` if there is none.
    pub newest: Option<f64>,
    /// That of the newest one that was restored and compared.
    pub verified: Option<f64>,
}

impl Database {
    /// The ages of the backups that the database remembers.
    ///
    /// # Errors
    /// If the database does not answer, or has no such table.
    pub async fn backup_ages(&self) -> Result<BackupAges, Error> {
        let sql = "select extract(epoch from now() - max(created_at))::double precision,
                       extract(epoch from now() - max(created_at) filter (where verified_at is not null))::double precision
                   from ingest_backup";
        let rows = self.session().await?.query(Step::Other("read the ages of backups"), sql, &[]).await?;
        Ok(rows.first().map_or_else(BackupAges::default, |row| BackupAges { newest: row.get(0), verified: row.get(1) }))
    }
}
