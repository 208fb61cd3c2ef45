//! Which series a command is about, as its arguments say it.

use clap::Args;

use super::{Failure, name_and_value};
use crate::repository::{Glob, Selection};

#[derive(Debug, Args)]
pub(super) struct Matching {
    /// All series whose id is of this pattern: * is any text, ? a character, [a-z] one of them.
    #[arg(long = "match", value_name = "GLOB")]
    pattern: Option<String>,
    /// All series that have this label; if it is given again, those that have all of them.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
}

fn label(text: &str) -> Result<(String, String), String> {
    name_and_value(text)
        .and_then(|pair| if pair.0.is_empty() { Err("expected NAME=VALUE".to_owned()) } else { Ok(pair) })
}

impl Matching {
    /// The series with these ids; if there are none, those that match.
    pub(super) fn selection(&self, ids: Vec<String>) -> Result<Selection, Failure> {
        let pattern = self.pattern.as_deref().map(Glob::parse).transpose()?;
        Ok(Selection { ids, pattern, labels: self.label.clone() })
    }
}
