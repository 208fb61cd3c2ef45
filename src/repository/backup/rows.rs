//! Restoring row by row, into tables that this program makes: for a server of another kind. The rows come out of the dump as
//! text, by pg_restore, and go into the tables by COPY.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio::sync::mpsc;
use tokio_postgres::{Client, CopyInSink};

use super::error::Error;
use super::folder::Backup;
use super::programs::{Program, stdio};
use super::{Report, Stage};
use crate::config::{self, Config};
use crate::database::schema::roles::TABLES;
use crate::database::schema::{UNFINISHED_RESTORE, migrate};
use crate::database::{self, quoted_name, quoted_text};

/// Number of bytes that are sent at once.
const BLOCK: usize = 256 * 1024;
/// Number of such blocks that wait.
const WAITING: usize = 4;
/// The table of points.
const POINTS: &str = "time_series_data_points";
/// What this program makes itself.
const HISTORY: &str = "ingest_schema_history";
/// The tables that the keys of others refer to.
const FIRST: [&str; 2] = ["time_series_metadata", "ingest_source"];

/// A piece of what pg_restore writes.
enum Piece {
    /// COPY of a table, with its columns in parentheses.
    Begin { table: String, columns: String },
    /// Rows, and their number.
    Rows(Bytes, u64),
    /// The end of the rows.
    End,
    /// A sequence, and the other arguments of `setval`.
    Sequence(String, String),
}

/// Restores the rows into tables that it makes.
pub(super) async fn restore(config: &Config, backup: &Backup, program: &Program, report: &Report) -> Result<(), Error> {
    let database = &config.database;
    migrate(config).await?;
    let client = database::connect(database).await?;
    let execute = async |step, sql: &str| client.batch_execute(sql).await.map_err(Error::server(step));
    // A worker that starts now sees that the tables are not complete.
    execute("mark the restore as unfinished", &format!("create table {UNFINISHED_RESTORE} ()")).await?;
    let tables: Vec<&'static str> =
        TABLES.iter().map(|(name, _)| *name).filter(|name| ![POINTS, HISTORY].contains(name)).collect();
    let each = |change: &str| -> String {
        tables.iter().map(|table| format!("alter table {table} {change} trigger user; ")).collect()
    };
    execute("switch triggers off", &each("disable")).await?;
    execute("forget the new identity", "delete from ingest_database").await?;
    let load = Load { client: &client, database, backup, program, report };
    load.tables(&FIRST).await?;
    load.points().await?;
    let rest: Vec<&'static str> = tables.iter().copied().filter(|table| !FIRST.contains(table)).collect();
    load.tables(&rest).await?;
    execute("switch triggers on", &each("enable")).await?;
    execute("mark the restore as finished", &format!("drop table {UNFINISHED_RESTORE}")).await
}

struct Load<'a> {
    client: &'a Client,
    database: &'a config::Database,
    backup: &'a Backup,
    program: &'a Program,
    report: &'a Report,
}

impl Load<'_> {
    /// Loads some of our tables, one after the other.
    async fn tables(&self, names: &[&'static str]) -> Result<(), Error> {
        for name in names {
            let name: &'static str = name;
            let schema = quoted_name(&self.backup.manifest.origin.schema);
            let arguments = [format!("--schema={}", self.backup.manifest.origin.schema), format!("--table={name}")];
            let wanted = |table: &str| {
                let (of, found) = table.rsplit_once('.').unwrap_or(("", table));
                (found == name && (of == schema || of == schema.trim_matches('"'))).then_some(name)
            };
            self.run(&arguments, wanted, false).await?;
        }
        Ok(())
    }

    /// Loads the points of all chunks, and sets the sequences.
    async fn points(&self) -> Result<(), Error> {
        let manifest = &self.backup.manifest;
        let own = [
            format!("{}.{POINTS}", manifest.origin.schema),
            format!("{}.{POINTS}", quoted_name(&manifest.origin.schema)),
        ];
        let chunks: Vec<&str> = manifest.contents.windows.iter().filter_map(|window| window.table.as_deref()).collect();
        let wanted = |table: &str| (own.iter().any(|name| name == table) || chunks.contains(&table)).then_some(POINTS);
        self.run(&[], wanted, true).await
    }

    /// Loads what pg_restore selects with these arguments: the rows of tables for which `wanted` names one of ours.
    async fn run(
        &self,
        arguments: &[String],
        wanted: impl Fn(&str) -> Option<&'static str>,
        with_sequences: bool,
    ) -> Result<(), Error> {
        let path = self.backup.dump();
        let mut command = self.program.command(self.database)?;
        command.args(["--data-only", "--file=-"]).args(arguments).stdout(Stdio::piped());
        command.stdin(stdio(File::open(&path).map_err(Error::read(&path))?));
        let (mut running, complaint) = self.program.start(&mut command)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        if let Some(stdout) = running.child.stdout.take() {
            // It ends with the program, or when nothing is received any more.
            std::thread::spawn(move || send_pieces(stdout, &sender));
        }
        self.take(receiver, wanted, with_sequences).await?;
        let status = running.end().await?;
        if status.success() {
            return Ok(());
        }
        Err(self.program.failure(status, complaint.recv().unwrap_or_default()))
    }

    async fn take(
        &self,
        mut pieces: mpsc::Receiver<Piece>,
        wanted: impl Fn(&str) -> Option<&'static str>,
        with_sequences: bool,
    ) -> Result<(), Error> {
        const STEP: &str = "copy the rows of the backup";
        let mut open: Option<std::pin::Pin<Box<CopyInSink<Bytes>>>> = None;
        let mut points = 0;
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Begin { table, columns } => {
                    let Some(name) = wanted(&table) else { continue };
                    let copy = format!("copy {name} {columns} from stdin");
                    open = Some(Box::pin(self.client.copy_in(copy.as_str()).await.map_err(Error::server(STEP))?));
                }
                Piece::Rows(bytes, rows) => {
                    let Some(sink) = &mut open else { continue };
                    sink.send(bytes).await.map_err(Error::server(STEP))?;
                    points += rows;
                    if with_sequences {
                        (self.report)(Stage::Restore, points);
                    }
                }
                Piece::End => {
                    if let Some(mut sink) = open.take() {
                        sink.as_mut().finish().await.map_err(Error::server(STEP))?;
                    }
                }
                Piece::Sequence(name, rest) if with_sequences => {
                    let sql = format!(
                        "select setval(sequence, {rest}) from to_regclass({}) as sequence where sequence is not null",
                        quoted_text(&name)
                    );
                    self.client.batch_execute(&sql).await.map_err(Error::server("set a sequence"))?;
                }
                Piece::Sequence(..) => {}
            }
        }
        Ok(())
    }
}

/// Reads what pg_restore writes, piece by piece.
fn send_pieces(output: impl Read, pieces: &mpsc::Sender<Piece>) {
    let mut lines = BufReader::with_capacity(BLOCK, output);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        let piece = match copied(&text) {
            Some((table, columns)) => Piece::Begin { table, columns },
            None => match sequence(&text) {
                Some((name, rest)) => Piece::Sequence(name, rest),
                None => continue,
            },
        };
        let has_rows = matches!(piece, Piece::Begin { .. });
        if pieces.blocking_send(piece).is_err() || has_rows && send_rows(&mut lines, pieces).is_none() {
            return;
        }
    }
}

/// Sends rows up to their end; `None` if nothing is received any more, or the output has ended.
fn send_rows(lines: &mut impl BufRead, pieces: &mpsc::Sender<Piece>) -> Option<()> {
    let mut block = BytesMut::with_capacity(BLOCK + 1024);
    let (mut line, mut rows) = (Vec::new(), 0);
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let is_end = line == b"\\.\n";
        if !is_end {
            block.extend_from_slice(&line);
            rows += 1;
        }
        if is_end || block.len() >= BLOCK {
            pieces.blocking_send(Piece::Rows(block.split().freeze(), rows)).ok()?;
            rows = 0;
        }
        if is_end {
            return pieces.blocking_send(Piece::End).ok();
        }
    }
}

/// The table and the columns, in parentheses, of a line `COPY a.b (c, d) FROM stdin;`.
fn copied(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("COPY ")?.trim_end().strip_suffix(" FROM stdin;")?;
    let (table, columns) = rest.split_once(" (")?;
    Some((table.to_owned(), format!("({columns}")))
}

/// The sequence without its schema, and the rest, of a line `SELECT pg_catalog.setval('a.b', 1, true);`.
fn sequence(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("SELECT pg_catalog.setval('")?.trim_end().strip_suffix(");")?;
    let (name, rest) = rest.split_once("', ")?;
    let (_, name) = name.rsplit_once('.')?;
    let is_plain = rest.chars().all(|c| c.is_ascii_alphanumeric() || ", -".contains(c));
    is_plain.then(|| (name.to_owned(), rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_restore_writes_is_read() {
        let text = "SET x = 1;\n\n--\n-- Data for Name: a\n--\nCOPY public.a (id, \"offset\") FROM stdin;\n1\tx\n2\t\\N\n\\.\n\n\
                    SELECT pg_catalog.setval('public.a_id_seq', 7, true);\nCOPY \"S s\".b (c) FROM stdin;\n\\.\n";
        let (sender, mut receiver) = mpsc::channel(100);
        send_pieces(text.as_bytes(), &sender);
        drop(sender);
        let mut found = Vec::new();
        while let Some(piece) = receiver.blocking_recv() {
            found.push(match piece {
                Piece::Begin { table, columns } => format!("{table} {columns}"),
                Piece::Rows(bytes, rows) => format!("{rows}: {}", String::from_utf8_lossy(&bytes)),
                Piece::End => "end".to_owned(),
                Piece::Sequence(name, rest) => format!("{name}: {rest}"),
            });
        }
        assert_eq!(
            found,
            [
                "public.a (id, \"offset\")",
                "2: 1\tx\n2\t\\N\n",
                "end",
                "a_id_seq: 7, true",
                "\"S s\".b (c)",
                "0: ",
                "end"
            ]
        );
    }
}
