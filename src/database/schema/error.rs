//! Why the schema is not what the program needs.

use super::columns::OtherType;
use crate::database::error::Error;

/// Why the schema is not what the program needs.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server does not answer, or refuses.
    #[error(transparent)]
    Database(#[from] Error),
    /// refinery's reason.
    #[error("the migrations failed: {0}")]
    Migration(String),
    /// Migrations are missing.
    #[error(
        "the schema is not migrated ({missing} missing): run `series-ingest migrate`, or set database.migrate_on_start"
    )]
    NotMigrated {
        /// The missing migrations.
        missing: String,
    },
    /// The schema that the configuration names is missing.
    #[error("the schema {schema:?} of database.schema does not exist: run `series-ingest migrate`")]
    NoSchema {
        /// Its name.
        schema: String,
    },
    /// A function of the schema works with the tables of another one.
    #[error(
        "the function {function} works with the tables of another schema, because its own was renamed: run `series-ingest migrate`"
    )]
    Renamed {
        /// The function's name.
        function: String,
    },
    /// The schema is of a later version of this program.
    #[error("the schema has migration {version}, which this version of the program does not know: use a newer one")]
    TooNew {
        /// The highest applied migration.
        version: i32,
    },
    /// A restore has begun and has not ended.
    #[error(
        "a restore into this database has not ended, so that its tables are not complete: wait for `series-ingest backup \
         restore`, or, if it was stopped, drop the database, make it again and repeat the restore"
    )]
    UnfinishedRestore,
    /// The points have no unique index.
    #[error(
        "points.on_duplicate = {rule:?} needs a unique index on the points' time_series_id, column_name and timestamp: run \
         `series-ingest migrate` with this setting"
    )]
    NotUnique {
        /// The value of `points.on_duplicate`.
        rule: &'static str,
    },
    /// The points have a unique index, and duplicates are to be appended.
    #[error(
        "the unique index {index} refuses points that come twice, and points.on_duplicate is \"append\": set it to \
         \"ignore\" or \"replace\", or drop the index"
    )]
    Unique {
        /// The index's name.
        index: String,
    },
    /// The unique index cannot be made.
    #[error(
        "points.on_duplicate = {rule:?} needs a unique index, and points are there more than once: {example}. docs/schema.md \
         has the statements that list them and that delete all but one"
    )]
    Duplicates {
        /// The value of `points.on_duplicate`.
        rule: &'static str,
        /// The server's message.
        example: String,
    },
    /// Tables of another program have the names of ours, and cannot be used.
    #[error(
        "tables of another program have the names that this one needs, and cannot serve: {problems}. Change that, rename them, \
         or use another schema or database"
    )]
    NotAdopted {
        /// All problems.
        problems: String,
    },
    /// A table is no longer as the program needs it.
    #[error("{0}")]
    Table(String),
    /// The profile cannot be set.
    #[error("{0}")]
    Profile(String),
    /// The worker's role cannot be given its privileges.
    #[error("{0}")]
    Role(String),
    /// A column of the points is not of the type that COPY sends.
    #[error(transparent)]
    OtherType(OtherType),
    /// The work for a batch fails, because tables or functions were changed.
    #[error("what a worker does for each batch fails, because something was changed in the database: {0}")]
    Unusable(Error),
    /// An applied migration is not the one of this program.
    #[error("migration {name} was applied with another content: {}", NO_UPGRADE)]
    Different {
        /// The migration's name.
        name: String,
    },
}

/// What an operator can do with tables that this program's migrations have not made.
pub(super) const NO_UPGRADE: &str = "the tables are those of another program, or of a version before the first release, which has no \
    upgrade. Name an empty schema or database in database.schema or database.url, or drop these tables: messages that Kafka \
    still has are then written again";
