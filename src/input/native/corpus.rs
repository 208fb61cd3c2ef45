//! The cases of `tests/corpus/`, each decoded alone, and all into one batch.

#[path = "../../../tests/corpus/cases.rs"]
mod cases;

use super::Points;
use super::*;
use crate::config::Config;
use crate::raw::Kind;
use cases::{Case, Outcome, Topic};

/// A point, with its value as bits; all NaN are equal.
type Row = (String, String, i64, u64);

fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

/// The expected result of a case, and its points.
fn expected(case: &Case) -> (Result<Message, (String, String)>, Vec<Row>) {
    match case.outcome.clone() {
        Outcome::PointBatch { points } | Outcome::Refused { points, .. } => {
            let message = Message::PointBatch { points: points.len() };
            (Ok(message), points.into_iter().map(|(s, c, time, value)| (s, c, time, bits(value))).collect())
        }
        Outcome::SeriesCreate { id, name, description, time_column, value_columns, labels } => {
            let series = SeriesCreate { id, name, description, time_column, value_columns, labels };
            (Ok(Message::SeriesCreate(series)), Vec::new())
        }
        Outcome::Tombstone => (Ok(Message::Tombstone), Vec::new()),
        Outcome::DeadLetter { reason, detail } => (Err((reason, detail)), Vec::new()),
    }
}

/// The result of decoding a case.
fn decoded(
    case: &Case,
    decoder: &mut NativeDecoder,
    points: &mut Points,
) -> (Result<Message, (String, String)>, Vec<Row>) {
    let kind = match case.topic {
        Topic::Series => Kind::Series,
        Topic::Points => Kind::Points,
    };
    let before = points.len();
    let result = decoder
        .decode(kind, case.payload.as_deref(), points)
        .map_err(|rejected| (rejected.reason.as_str().to_owned(), rejected.detail));
    let row = |index| {
        let (series, column, time, value) = points.get(index);
        (series.to_owned(), column.to_owned(), time, bits(value))
    };
    (result, (before..points.len()).map(row).collect())
}

#[test]
fn every_case_of_the_corpus_has_its_outcome() {
    let cases = cases::all();
    let limits = Config::load(Some(&cases::config_file()), []).unwrap().message.limits();
    let (mut decoder, mut together) = (NativeDecoder::new(limits.clone()), Points::default());
    let mut wrong = Vec::new();
    for case in &cases {
        let expected = expected(case);
        for decoded in [
            decoded(case, &mut NativeDecoder::new(limits.clone()), &mut Points::default()),
            decoded(case, &mut decoder, &mut together),
        ] {
            if decoded != expected {
                wrong.push(format!("{}\n  expected {expected:?}\n  found    {decoded:?}", case.name));
                break;
            }
        }
    }
    // Of the database's reasons, the decoder reports only an unknown series, once it is known.
    decoder.reject_series(["nobodys".to_owned()]);
    for case in &cases {
        if let Outcome::Refused { reason, detail, .. } = &case.outcome
            && reason == Reason::UnknownSeries.as_str()
        {
            let found = decoded(case, &mut decoder, &mut Points::default()).0;
            assert_eq!(found, Err((reason.clone(), detail.clone())), "{}", case.name);
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 120, "{} cases", cases.len());
    println!("{} cases", cases.len());
}
