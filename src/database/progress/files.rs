//! Files that were imported: each is a source, whose messages are its rows.

use std::sync::Arc;

use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::{Database, Error};
use crate::raw::{FILE_CLUSTER, Kind, Source};

/// A file as the database knows it.
#[derive(Debug, Clone)]
pub struct FileSource {
    /// The source, under the name by which the file was imported first.
    pub source: Arc<Source>,
    /// When its import began first, in milliseconds since the Unix epoch; the time of all its messages.
    pub first_ms: i64,
}

impl FileSource {
    fn of_row(row: &tokio_postgres::Row) -> Self {
        let (topic, topic_id): (String, String) = (row.get(0), row.get(1));
        let source = Source { kind: Kind::Points, cluster_id: FILE_CLUSTER.to_owned(), topic, topic_id };
        Self { source: Arc::new(source), first_ms: row.get(2) }
    }
}

/// The files whose id begins so, the oldest first.
async fn known(session: &mut Session, pipeline: &str, beginning: &str) -> Result<Vec<FileSource>, Error> {
    let sql = "select topic, topic_id, floor(extract(epoch from created_at) * 1000)::bigint from ingest_source
               where pipeline = $1 and cluster_id = $2 and starts_with(topic_id, $3) order by id";
    let rows = session.query(Step::Other("look for a file"), sql, &[&pipeline, &FILE_CLUSTER, &beginning]).await?;
    Ok(rows.iter().map(FileSource::of_row).collect())
}

impl Database {
    /// The files of this pipeline whose id begins so, the oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn files(&self, beginning: &str) -> Result<Vec<FileSource>, Error> {
        let work = async { known(&mut self.session().await?, &self.pipeline, beginning).await };
        self.recorded(work.await)
    }

    /// The file with this id; it is added under this name if it is new. Two commands that ask at the same time get the same
    /// one, whatever the names are.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn file(&self, name: &str, id: &str) -> Result<FileSource, Error> {
        let work = async {
            let mut session = self.session().await?;
            session.begin().await?;
            let lock = "select pg_advisory_xact_lock(hashtextextended($1, 0))";
            session.query(Step::Other("lock a file"), lock, &[&id]).await?;
            let mut found = known(&mut session, &self.pipeline, id).await?;
            if found.is_empty() {
                let add = "select source_key from ingest_source_key($1, $2, $3, $4)";
                let pipeline = self.pipeline.as_ref();
                session.query(Step::Other("add a file"), add, &[&pipeline, &FILE_CLUSTER, &name, &id]).await?;
                found = known(&mut session, &self.pipeline, id).await?;
            }
            session.commit().await?;
            let first = found.into_iter().next();
            first.ok_or_else(|| Error::Unexpected(format!("the file {name} was not added")))
        };
        self.recorded(work.await)
    }
}
