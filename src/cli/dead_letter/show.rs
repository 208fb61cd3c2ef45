//! `dead-letter show` and `dead-letter export`: letters as JSON, with their payloads.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::filter::{Filter, Letters, series_of_letter};
use super::max_attempts;
use crate::cli::output::{self, print, print_line};
use crate::cli::{Failure, journal};
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::{Cut, Letter, LetterFilter};
use crate::raw::{Kind, headers};
use crate::telemetry::one_line;

pub(super) async fn show(config: &Config, database: &Database, id: i64, json: bool) -> Result<(), Failure> {
    let asked = LetterFilter { ids: vec![id], ..LetterFilter::default() };
    let letters = database.letters(&asked, i64::MIN, 1, |_| Kind::Points).await?;
    let letter = letters.first().ok_or_else(|| {
        Failure::Usage(format!("this pipeline has no dead letter {id}: it was written again or deleted, or never was"))
    })?;
    if json {
        print_line(with_payload(letter, max_attempts(config)));
        return Ok(());
    }
    let Value::Object(fields) = with_payload(letter, max_attempts(config)) else {
        unreachable!("a letter is an object")
    };
    for (name, value) in fields.iter().filter(|(name, _)| !name.starts_with("payload")) {
        let text = value.as_str().map_or_else(|| value.to_string(), |text| one_line(text).into_owned());
        print_line(format_args!("{name:<14} {text}"));
    }
    print_line(format_args!("{:<14} {}", "payload_bytes", letter.message.payload_bytes));
    for Cut { part, kept, .. } in letter.message.cut() {
        print_line(format_args!("only the first {kept} bytes of the {part} are here; Kafka may still have all of it"));
    }
    print_line("");
    match fields.get("payload").or_else(|| fields.get("payload_base64")) {
        Some(Value::String(text)) => print_line(for_terminal(text)),
        _ => print_line("no payload"),
    }
    Ok(())
}

/// A text in full, without characters that control the terminal.
fn for_terminal(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

pub(super) async fn export(config: &Config, database: &Database, filter: &Filter) -> Result<(), Failure> {
    let mut letters = Letters::new(config, database, filter);
    while let Some((page, _)) = letters.next().await? {
        for letter in &page {
            print(&format!("{}\n", with_payload(letter, max_attempts(config))));
        }
        if !output::is_open() {
            break;
        }
    }
    output::sync();
    Ok(())
}

/// Returns the message's position, as `journal export` prints it, and the letter's state.
pub(super) fn described(letter: &Letter, max_attempts: i32) -> Map<String, Value> {
    let mut line = Map::new();
    let mut set = |name: &str, value: Value| line.insert(name.to_owned(), value);
    set("id", letter.message.id.into());
    set("topic", letter.source.topic.as_str().into());
    set("partition", letter.message.partition.into());
    set("offset", letter.message.offset.into());
    set("time_ms", letter.message.time_ms.into());
    set("reason", letter.message.reason.as_str().into());
    set("detail", letter.message.detail.as_str().into());
    set("created_at", time(letter.created_ms).into());
    set("attempts", letter.attempts.into());
    set("attempted_at", letter.attempted_ms.map(time).into());
    set("parked", (letter.attempts >= max_attempts).into());
    set("sample", letter.is_sample.into());
    set("series", series_of_letter(letter).into());
    set("key_bytes", letter.message.key_bytes.into());
    set("headers_bytes", letter.message.headers_bytes.into());
    set("payload_bytes", letter.message.payload_bytes.into());
    // Only the head of these is stored.
    set("cut", letter.message.cut().iter().map(|cut| cut.part).collect());
    line
}

/// The same with key, headers and payload.
fn with_payload(letter: &Letter, max_attempts: i32) -> Value {
    let mut line = described(letter, max_attempts);
    journal::insert(&mut line, "key", letter.message.key.as_deref());
    let named = headers::decode(letter.message.headers.as_deref().unwrap_or_default());
    let named = named.into_iter().map(|(name, value)| {
        let mut header = Map::new();
        header.insert("name".to_owned(), name.into());
        journal::insert(&mut header, "value", value);
        Value::Object(header)
    });
    line.insert("headers".to_owned(), named.collect());
    journal::insert(&mut line, "payload", letter.message.payload.as_deref());
    Value::Object(line)
}

/// Formats milliseconds since the Unix epoch.
pub(super) fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}
