//! What can be said of a file, instead of being found.

use crate::files::{Form, Format};
use crate::input::TimeForm;
use crate::message::timestamp::Unit;

/// What is said of a file; what is not is found in it.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// The series of all rows.
    pub series: Option<String>,
    /// The column with the series of each row.
    pub series_column: Option<String>,
    /// The column with the times.
    pub time_column: Option<String>,
    pub(crate) time_unit: Option<Unit>,
    pub(crate) time_format: Option<(String, TimeForm)>,
    /// The columns with values; all others if it is empty.
    pub columns: Vec<String>,
    /// What a row is.
    pub form: Option<Form>,
    /// What stands between the fields of a CSV file.
    pub delimiter: Option<u8>,
    /// The format.
    pub format: Option<Format>,
    /// `true` if there is no point where a value is missing, `false` if there is a point without a value; by default as the file says of
    /// each column, and a point without a value if it does not.
    pub skip_nulls: Option<bool>,
    /// The columns of a message at most; a row with more is several messages.
    pub max_columns: usize,
    /// The length of such a message at most, in bytes, as far as names and usual values tell.
    pub max_bytes: usize,
}

impl ReadOptions {
    /// Sets how times are written: the unit of numbers, or a pattern of texts.
    ///
    /// # Errors
    /// If either means nothing: with the option's name.
    pub fn set_time(&mut self, unit: Option<&str>, format: Option<&str>) -> Result<(), String> {
        if let Some(word) = unit {
            let unit = Unit::from_word(word);
            self.time_unit = Some(unit.ok_or_else(|| format!("--time-unit is {word:?}: say s, ms, us or ns"))?);
        }
        if let Some(pattern) = format {
            let form = TimeForm::parse(None, Some(pattern)).map_err(|(_, text)| format!("--time-format {text}"))?;
            self.time_format = Some((pattern.to_owned(), form));
        }
        if unit.is_some() && format.is_some() {
            return Err("--time-unit and --time-format: a time is a number or a text, so say one of them".to_owned());
        }
        Ok(())
    }
}
