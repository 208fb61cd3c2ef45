//! What can go wrong with backups.

use std::io;
use std::path::{Path, PathBuf};

use crate::database::schema::SchemaError;
use crate::database::{self, Step};
use crate::files;

/// A backup was not made, verified or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server does not answer, or refuses.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// The tables are not those of this program's version.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// PostgreSQL's programs are missing, or are too old.
    #[error("{0}")]
    Programs(String),
    /// One of PostgreSQL's programs has failed.
    #[error("{program} has failed, {status}: {text}")]
    Program {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The last lines that it wrote to standard error.
        text: String,
    },
    /// A file of a backup was not written.
    #[error("{} cannot be written: {error}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A file that appears as a whole was not written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A file of a backup cannot be read.
    #[error("{} cannot be read: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A folder is not a backup of this program, or its files are not those that were written.
    #[error("the backup {} is damaged: {why}", .path.display())]
    Damaged {
        /// The backup's folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The backup cannot be restored into this database.
    #[error("{0}")]
    Target(String),
}

impl Error {
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Write { path: path.to_owned(), error }
    }

    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Read { path: path.to_owned(), error }
    }

    pub(super) fn server(step: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| database::Error::Server { step: Step::Other(step), source }.into()
    }
}
