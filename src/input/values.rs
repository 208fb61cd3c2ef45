//! Values that are not numbers, as the input is configured.

use super::{Booleans, Strings};
use crate::message::Reason;
use crate::message::json::Fault;

/// The number for a string, as the input is configured; `None` if it is skipped.
pub(super) fn number_of_text(text: &str, strings: Strings, at: usize) -> Result<Option<f64>, Fault> {
    match strings {
        Strings::Skip => Ok(None),
        Strings::Reject => {
            Err(Fault::new(Reason::Schema, at, "expected a number, found a string, and strings = \"reject\""))
        }
        Strings::Number => match text.parse::<f64>() {
            Ok(number) if number.is_infinite() && text.contains(|c: char| c.is_ascii_digit()) => {
                Err(Fault::new(Reason::Limits, at, "the number is beyond the range of a double"))
            }
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Fault::new(Reason::Schema, at, "expected a number in the string, and strings = \"number\"")),
        },
    }
}

/// The number for a boolean, as the input is configured; `None` if it is skipped.
pub(super) fn number_of_boolean(value: bool, booleans: Booleans, at: usize) -> Result<Option<f64>, Fault> {
    match booleans {
        Booleans::Skip => Ok(None),
        Booleans::ZeroOne => Ok(Some(f64::from(u8::from(value)))),
        Booleans::Reject => {
            Err(Fault::new(Reason::Schema, at, "expected a number, found a boolean, and booleans = \"reject\""))
        }
    }
}
