//! Where archived points come from.

use serde::{Deserialize, Serialize};

/// Where the points of a file come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The version of the server.
    pub postgresql: String,
    /// The version of TimescaleDB, if it is there.
    pub timescaledb: Option<String>,
    /// The identity that `migrate` has given to the database.
    pub database_id: String,
    /// Its name.
    pub database: String,
    /// The schema of the tables.
    pub schema: String,
    /// The table of points.
    pub table: String,
}
