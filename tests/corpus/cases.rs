//! The cases of this folder: `GROUP/NAME.msg` is a message's bytes, and `GROUP/NAME.toml` says what becomes of it. Without
//! `.msg` the message is a tombstone. `config.toml` has the limits.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A message and what becomes of it.
#[derive(Debug)]
pub(crate) struct Case {
    /// `GROUP/NAME`.
    pub(crate) name: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) topic: Topic,
    pub(crate) outcome: Outcome,
}

/// The topic it is published to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topic {
    Series,
    #[default]
    Points,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// Series, column, microseconds since the Unix epoch, value; NaN is NULL.
    PointBatch {
        points: Vec<(String, String, i64, f64)>,
    },
    SeriesCreate {
        id: String,
        name: Option<String>,
        description: Option<String>,
        time_column: Option<String>,
        value_columns: Vec<String>,
        /// An object of JSON.
        labels: Option<String>,
    },
    Tombstone,
    DeadLetter {
        reason: String,
        detail: String,
    },
    /// It can be read, and is a dead letter by what the database has: its series has no row where each needs one, or the
    /// table has a constraint. `detail` is what the letter's begins with.
    Refused {
        points: Vec<(String, String, i64, f64)>,
        reason: String,
        detail: String,
    },
}

#[derive(Deserialize)]
struct Expected {
    #[serde(default)]
    topic: Topic,
    #[serde(flatten)]
    outcome: Outcome,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The configuration with the limits.
pub(crate) fn config_file() -> PathBuf {
    folder().join("config.toml")
}

/// All cases, by name.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut payloads = 0;
    for group in std::fs::read_dir(folder()).unwrap() {
        let group = group.unwrap().path();
        // Those of the other formats have inputs, and are read by `src/input/corpus.rs`.
        if !group.is_dir() || group.ends_with("inputs") {
            continue;
        }
        for file in std::fs::read_dir(&group).unwrap() {
            let file = file.unwrap().path();
            let part = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let name = format!("{}/{}", part(&group), part(&file));
            if file.extension().is_some_and(|extension| extension == "msg") {
                payloads += 1;
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let Expected { topic, outcome } = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            cases.push(Case { payload: std::fs::read(file.with_extension("msg")).ok(), name, topic, outcome });
        }
    }
    let used = cases.iter().filter(|case| case.payload.is_some()).count();
    assert_eq!(used, payloads, "each payload has its expected outcome next to it");
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}
