//! The source that a file is: by its content, its series and what its rows mean.

use tracing::Level;

use crate::cli::Failure;
use crate::cli::output::complain;
use crate::database::{Database, FileSource};
use crate::files::read::table::Table;
use crate::raw::FILE_CLUSTER;
use crate::telemetry::{one_line, shown};

/// The source that a file is, unless its content was imported with another meaning.
pub(super) async fn identified(database: &Database, table: &Table, again: bool) -> Result<FileSource, Failure> {
    let (name, path) = (name_of(table), shown(table.content().path()));
    let hash = table.content().hash()?;
    let of_series = format!("{hash}-{}", table.series_digest());
    let id = format!("{of_series}-{}", table.meaning());
    #[cfg(feature = "planted-bugs")]
    let id = if crate::planted_bugs::is_on("import-is-another-source") {
        format!("{}-{id}", std::process::id())
    } else {
        id
    };
    // Files of two series may have the same rows.
    let known = database.files(if table.names_its_series() { &of_series } else { &hash }).await?;
    let id = not_deleted(database, table, id, &known, again).await?;
    let is_new = !known.iter().any(|file| file.source.topic_id == id);
    if let Some(other) = known.first().filter(|_| is_new && !again) {
        return Err(Failure::Usage(format!(
            "{path}: this content was imported before, as {}, with other options (series, columns or times): to import it with \
             these as well, say --again; what both read is then stored twice",
            one_line(&other.source.topic)
        )));
    }
    if is_new && known.is_empty() {
        let before = database.progress(Some(&name)).await?;
        if before.iter().any(|row| row.cluster_id == FILE_CLUSTER) {
            complain(
                Level::INFO,
                &format!(
                    "{path}: a file of this name was imported before with other content; rows that both have are stored twice"
                ),
            );
        }
    }
    let file = database.file(&name, &id).await?;
    if file.source.topic != name {
        complain(Level::INFO, &format!("{path}: this content was imported first as {}", one_line(&file.source.topic)));
    }
    Ok(file)
}

/// The id under which a file is imported; it is another one if its series was deleted after it was imported.
async fn not_deleted(
    database: &Database,
    table: &Table,
    id: String,
    known: &[FileSource],
    again: bool,
) -> Result<String, Failure> {
    let (Ok(series), Some(first)) = (table.series(), known.iter().find(|file| file.source.topic_id == id)) else {
        return Ok(id);
    };
    match database.deleted_ms(series).await? {
        Some(deleted_ms) if deleted_ms >= first.first_ms => {
            let after = format!("{id}-{deleted_ms}");
            // It may have been imported since, or its import may have to go on.
            if again || known.iter().any(|file| file.source.topic_id == after) {
                return Ok(after);
            }
            Err(Failure::Usage(format!(
                "{}: the series {series:?} was deleted after this file was imported: to import it again, say --again",
                shown(table.content().path())
            )))
        }
        _ => Ok(id),
    }
}

fn name_of(table: &Table) -> String {
    let path = table.content().path();
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
