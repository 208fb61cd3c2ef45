//! `journal export`: the journal's messages as JSON lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use tracing::Level;

use super::{Filter, Times, damaged_records_skipped, known_damage};
use crate::cli::Failure;
use crate::cli::output::{self, complain, print};
use crate::journal::{Inspection, ReadError, Record};
use crate::raw::headers;

pub(super) fn export(journal: &mut Inspection, filter: &Filter, times: &Times) -> Result<(), Failure> {
    let mut damaged = known_damage(journal);
    let records: Vec<Record> = journal.records().filter(|record| filter.takes(record)).cloned().collect();
    for record in records {
        let set = match journal.read(&record) {
            Ok(set) => set,
            // The worker has removed it: the database has it.
            Err(ReadError::Gone { .. }) => continue,
            Err(failure) => {
                complain(Level::WARN, &failure.to_string());
                damaged += 1;
                continue;
            }
        };
        let Some(set) = filter.clip(&set) else { continue };
        for message in set.messages().filter(|message| times.include(message)) {
            let mut line = Map::new();
            line.insert("topic".to_owned(), set.source().topic.as_str().into());
            line.insert("partition".to_owned(), set.partition().number.into());
            line.insert("offset".to_owned(), message.offset.into());
            line.insert("time_ms".to_owned(), message.time_ms.into());
            insert(&mut line, "key", message.key);
            insert(&mut line, "payload", message.payload);
            if let Some(encoded) = message.headers {
                // An array, because a name may occur more than once.
                let of = |(name, value): (String, Option<&[u8]>)| {
                    let mut header = Map::new();
                    header.insert("name".to_owned(), name.into());
                    insert(&mut header, "value", value);
                    Value::Object(header)
                };
                line.insert("headers".to_owned(), headers::decode(encoded).into_iter().map(of).collect());
            }
            print(&format!("{}\n", Value::Object(line)));
        }
        if !output::is_open() {
            break;
        }
    }
    output::sync();
    if damaged > 0 {
        return Err(damaged_records_skipped(damaged));
    }
    Ok(())
}

/// Adds bytes to a line: as text, or in base 64 if they are not UTF-8.
pub(in crate::cli) fn insert(line: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => line.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => line.insert(name.to_owned(), text.into()),
        Some(Err(_)) => line.insert(format!("{name}_base64"), BASE64.encode(bytes.unwrap_or_default()).into()),
    };
}
