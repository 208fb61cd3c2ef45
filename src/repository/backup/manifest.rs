//! What a backup has, by its manifest: `manifest.json` next to the dump.

use serde::{Deserialize, Serialize};

/// The form of the manifest that this program writes.
pub(super) const FORM: u32 = 1;

/// A backup's manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this document.
    pub form: u32,
    /// The backup's id.
    pub id: String,
    /// The moment whose rows the backup has, by RFC 3339.
    pub created_at: String,
    /// The version of series-ingest that has made it.
    pub program: String,
    /// The version of pg_dump that has made it.
    pub pg_dump: String,
    /// Where it is from.
    pub origin: Origin,
    /// The dump.
    pub dump: DumpFile,
    /// What the dump has.
    pub contents: Contents,
}

/// The database that was backed up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    /// The database's name.
    pub database: String,
    /// Its identity: `ingest_database.id`.
    pub id: String,
    /// The server's version.
    pub postgresql: String,
    /// The same as a number, such as 170012.
    pub server_version: u32,
    /// TimescaleDB's version; none on plain PostgreSQL.
    pub timescaledb: Option<String>,
    /// The schema of TimescaleDB's functions.
    pub timescaledb_schema: Option<String>,
    /// `plain PostgreSQL`, `Apache` or `community`.
    pub edition: String,
    /// The schema of the tables.
    pub schema: String,
    /// The newest applied migration.
    pub schema_version: i32,
    /// If `true`, the dump has all schemas of the database, because others have hypertables as well.
    pub is_whole_database: bool,
    /// The roles that have privileges on what is dumped, except the owner.
    pub roles: Vec<String>,
}

/// The file of the dump.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DumpFile {
    /// Its name in the backup's folder.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// What the tables have at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Rows of points.
    pub points: u64,
    /// The other tables.
    pub tables: Vec<TableContent>,
    /// The points by the time of their chunk, or by the day on plain PostgreSQL, in order; only those that have points.
    pub windows: Vec<Window>,
    /// How the windows were divided.
    pub windows_are: Division,
    /// The progress of each source and partition.
    pub sources: Vec<SourceProgress>,
}

/// How the points are divided into windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Division {
    /// By chunk.
    #[default]
    Chunks,
    /// By day in UTC.
    Days,
}

/// A table's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContent {
    /// The table's name.
    pub name: String,
    /// Number of its rows.
    pub rows: u64,
    /// A hash of its rows, whatever their order.
    pub digest: String,
}

/// The points of an interval of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The interval's first time, as PostgreSQL prints it.
    pub from: String,
    /// The first time after it.
    pub until: String,
    /// Number of points.
    pub points: u64,
    /// The earliest point's time.
    pub first: String,
    /// The latest point's time.
    pub last: String,
    /// A hash of the points, whatever their order.
    pub digest: String,
    /// `true` if the chunk is compressed.
    #[serde(default)]
    pub is_compressed: bool,
    /// The chunk's table; none on plain PostgreSQL.
    #[serde(default)]
    pub table: Option<String>,
}

/// The progress of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceProgress {
    /// The source's key.
    pub key: String,
    /// The pipeline.
    pub pipeline: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: String,
    /// Its partitions.
    pub partitions: Vec<PartitionProgress>,
}

/// The progress of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// The partition's number.
    pub partition: i32,
    /// Every offset below it is applied.
    pub next_offset: i64,
    /// The intervals applied above it, as PostgreSQL prints them.
    pub ahead: String,
}

impl Contents {
    /// Number of rows of a table; 0 if it is not listed.
    pub fn rows(&self, table: &str) -> u64 {
        self.tables.iter().find(|one| one.name == table).map_or(0, |one| one.rows)
    }

    /// Number of compressed chunks.
    pub fn compressed(&self) -> usize {
        self.windows.iter().filter(|window| window.is_compressed).count()
    }
}

/// The differences between what a backup should have and what was found, in sentences.
pub(super) fn differences(expected: &Contents, found: &Contents) -> Vec<String> {
    let mut all = Vec::new();
    compare_windows(expected, found, &mut all);
    compare_progress(expected, found, &mut all);
    for table in &expected.tables {
        match found.tables.iter().find(|other| other.name == table.name) {
            None => all.push(format!("the table {} is missing", table.name)),
            Some(other) if other.rows != table.rows => {
                all.push(format!("{} has {} rows, and the manifest says {}", table.name, other.rows, table.rows));
            }
            Some(other) if other.digest != table.digest => {
                all.push(format!("rows of {} are different from those that were backed up", table.name));
            }
            Some(_) => {}
        }
    }
    all
}

fn compare_windows(expected: &Contents, found: &Contents, all: &mut Vec<String>) {
    for window in &expected.windows {
        let place = format!("the points from {} to {}", window.from, window.until);
        let chunk = window.table.as_ref().map_or(String::new(), |table| format!(" ({table})"));
        match found.windows.iter().find(|other| other.from == window.from) {
            None => {
                all.push(format!("{place}{chunk} are missing: there are 0, and the manifest says {}", window.points))
            }
            Some(other) if other.points != window.points => {
                all.push(format!("{place}{chunk} are {}, and the manifest says {}", other.points, window.points));
            }
            Some(other) if (&other.first, &other.last) != (&window.first, &window.last) => {
                all.push(format!(
                    "{place}{chunk} lie between {} and {}, and the manifest says {} and {}",
                    other.first, other.last, window.first, window.last
                ));
            }
            Some(other) if other.digest != window.digest => {
                all.push(format!("{place}{chunk} are as many as the manifest says, with other contents"));
            }
            Some(_) => {}
        }
    }
    for other in &found.windows {
        if !expected.windows.iter().any(|window| window.from == other.from) {
            let (from, until) = (&other.from, &other.until);
            all.push(format!("there are {} points from {from} to {until}, and the manifest says none", other.points));
        }
    }
}

fn compare_progress(expected: &Contents, found: &Contents, all: &mut Vec<String>) {
    for source in &expected.sources {
        let Some(other) = found.sources.iter().find(|other| other.key == source.key) else {
            all.push(format!("the source of the topic {} is missing", source.topic));
            continue;
        };
        for partition in &source.partitions {
            let place = format!("partition {} of {}", partition.partition, source.topic);
            match other.partitions.iter().find(|one| one.partition == partition.partition) {
                None => all.push(format!("the progress of {place} is missing")),
                Some(one) if one.next_offset > partition.next_offset => all.push(format!(
                    "the progress of {place} is at {}, ahead of the points, which are those up to {}: messages between them \
                     would be lost",
                    one.next_offset, partition.next_offset
                )),
                Some(one) if one.next_offset < partition.next_offset => all.push(format!(
                    "the progress of {place} is at {}, and the points are those up to {}: messages between them would be \
                     written again",
                    one.next_offset, partition.next_offset
                )),
                Some(one) if one.ahead != partition.ahead => all.push(format!(
                    "the intervals applied ahead of {place} are {}, and the manifest says {}",
                    one.ahead, partition.ahead
                )),
                Some(_) => {}
            }
        }
        for one in &other.partitions {
            if !source.partitions.iter().any(|partition| partition.partition == one.partition) {
                let number = one.partition;
                all.push(format!("there is progress of partition {number} of {}, and no points", source.topic));
            }
        }
    }
    for other in &found.sources {
        if !expected.sources.iter().any(|source| source.key == other.key) {
            all.push(format!("there is progress of the topic {}, and no points", other.topic));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from: &str, points: u64) -> Window {
        Window {
            from: from.to_owned(),
            until: format!("{from}+1"),
            points,
            first: "a".to_owned(),
            last: "b".to_owned(),
            digest: points.to_string(),
            is_compressed: false,
            table: None,
        }
    }

    fn contents() -> Contents {
        let partition = |partition| PartitionProgress { partition, next_offset: 100, ahead: "{}".to_owned() };
        Contents {
            points: 3,
            tables: vec![TableContent { name: "t".to_owned(), rows: 2, digest: "d".to_owned() }],
            windows: vec![window("1", 1), window("2", 2)],
            windows_are: Division::Chunks,
            sources: vec![SourceProgress {
                key: "k".to_owned(),
                pipeline: "p".to_owned(),
                cluster_id: "c".to_owned(),
                topic: "topic".to_owned(),
                topic_id: "i".to_owned(),
                partitions: vec![partition(0), partition(1)],
            }],
        }
    }

    #[test]
    fn the_same_contents_differ_in_nothing() {
        assert_eq!(differences(&contents(), &contents()), [""; 0]);
    }

    #[test]
    fn each_difference_is_named() {
        type Change = fn(&mut Contents);
        let cases: [(&str, Change); 14] = [
            ("from 2 to 2+1 are missing", |one| drop(one.windows.pop())),
            ("from 2 to 2+1 are 7", |one| one.windows[1].points = 7),
            ("lie between x and b", |one| one.windows[1].first = "x".to_owned()),
            ("with other contents", |one| one.windows[1].digest = "x".to_owned()),
            ("there are 9 points from 3", |one| one.windows.push(window("3", 9))),
            ("the table t is missing", |one| one.tables.clear()),
            ("t has 5 rows", |one| one.tables[0].rows = 5),
            ("rows of t are different", |one| one.tables[0].digest = "x".to_owned()),
            ("the source of the topic topic is missing", |one| one.sources.clear()),
            ("partition 1 of topic is missing", |one| drop(one.sources[0].partitions.pop())),
            ("is at 101, ahead of the points", |one| one.sources[0].partitions[1].next_offset = 101),
            ("is at 99, and the points", |one| one.sources[0].partitions[1].next_offset = 99),
            ("ahead of partition 1 of topic are {[5,6)}", |one| {
                one.sources[0].partitions[1].ahead = "{[5,6)}".to_owned();
            }),
            ("progress of the topic another", |one| {
                let mut another = one.sources[0].clone();
                (another.key, another.topic) = ("other".to_owned(), "another".to_owned());
                one.sources.push(another);
            }),
        ];
        for (words, change) in cases {
            let mut changed = contents();
            change(&mut changed);
            let found = differences(&contents(), &changed);
            assert!(found.iter().any(|text| text.contains(words)), "{words}: {found:?}");
        }
    }
}
