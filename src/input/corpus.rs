//! The cases of `tests/corpus/inputs/`, each decoded alone, and again after those of all formats.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{Decoder, InputOptions, Inputs};
use crate::config::Config;
use crate::message::{Limits, Message, Points};
use crate::raw::{Kind, RawMessage, Source, headers};

/// The time of each message in Kafka: 2024-01-02T03:04:12Z.
const TIME_MS: i64 = 1_704_164_652_000;

/// The contents of `NAME.toml`; `NAME.msg` is the payload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The keys of the input.
    input: String,
    key: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// If it is `true`, the message has no time in Kafka.
    #[serde(default)]
    without_time: bool,
    outcome: Outcome,
    /// Series, column, microseconds since the Unix epoch, value; NaN is NULL.
    #[serde(default)]
    points: Vec<(String, String, i64, f64)>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Points,
    Skipped,
    Empty,
    Rejected,
}

/// The outcome with the reason and the detail, points with the value's bits, and labels.
type Found = ((Outcome, String, String), Vec<(String, String, i64, u64)>, BTreeMap<String, String>);

fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn cases() -> Vec<(String, Case, Vec<u8>)> {
    let files = std::fs::read_dir(folder().join("inputs")).unwrap().map(|file| file.unwrap().path());
    let (expected, payloads): (Vec<PathBuf>, Vec<PathBuf>) =
        files.partition(|file| file.extension().is_some_and(|extension| extension == "toml"));
    assert_eq!(expected.len(), payloads.len(), "each payload has its expected outcome next to it");
    let case = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let case = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, case, std::fs::read(file.with_extension("msg")).unwrap())
    };
    let mut cases: Vec<_> = expected.into_iter().map(case).collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

/// The inputs of a case; its topic is `t`.
fn inputs(case: &Case) -> Inputs {
    let table: toml::Table = format!("name = \"i\"\ntopics = [\"t\"]\n{}", case.input).parse().unwrap();
    let options: InputOptions = table.try_into().unwrap();
    Inputs::compile("", "", &[options]).unwrap()
}

/// The result of decoding a case.
fn decoded(case: &Case, payload: &[u8], decoder: &mut Decoder) -> Found {
    let source = Arc::new(Source {
        kind: Kind::Other,
        cluster_id: String::new(),
        topic: "t".to_owned(),
        topic_id: String::new(),
    });
    let headers = headers::encode(case.headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))));
    let message = RawMessage {
        offset: 0,
        time_ms: (!case.without_time).then_some(TIME_MS),
        key: case.key.as_deref().map(str::as_bytes),
        payload: Some(payload),
        headers: headers.as_deref(),
    };
    let mut points = Points::default();
    let outcome = match decoder.decode(&source, &message, &mut points) {
        Ok(Message::PointBatch { points: count }) => {
            assert_eq!(count, points.len());
            (Outcome::Points, String::new(), String::new())
        }
        Ok(Message::Skipped) => (Outcome::Skipped, String::new(), String::new()),
        Ok(Message::Empty) => (Outcome::Empty, String::new(), String::new()),
        Ok(other) => panic!("{other:?}"),
        Err(rejected) => (Outcome::Rejected, rejected.reason.as_str().to_owned(), rejected.detail),
    };
    let row = |index| {
        let (series, column, time, value) = points.get(index);
        (series.to_owned(), column.to_owned(), time, bits(value))
    };
    let labels = points.series_labels().map(|(series, labels)| (series.to_owned(), labels.to_owned()));
    (outcome, (0..points.len()).map(row).collect(), labels.collect())
}

#[test]
fn every_case_of_the_inputs_has_its_outcome() {
    let limits: Limits = Config::load(Some(&folder().join("config.toml")), []).unwrap().message.limits();
    let (cases, mut wrong) = (cases(), Vec::new());
    let mut decoders: BTreeMap<&str, Decoder> = BTreeMap::new();
    for (name, case, payload) in &cases {
        let points = case.points.iter().map(|(s, c, time, value)| (s.clone(), c.clone(), *time, bits(*value)));
        let expected =
            ((case.outcome, case.reason.clone(), case.detail.clone()), points.collect(), case.labels.clone());
        let mut alone = Decoder::new(limits.clone(), inputs(case));
        let after_others = decoders.entry(&case.input).or_insert_with(|| alone.clone());
        for found in [decoded(case, payload, &mut alone), decoded(case, payload, after_others)] {
            if found != expected {
                wrong.push(format!("{name}\n  expected {expected:?}\n  found    {found:?}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 70, "{} cases", cases.len());
}
