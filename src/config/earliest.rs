//! The first accepted time of a point.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::message::length::length_us;

/// The first accepted time: a time, or an age such as `-90d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earliest {
    /// This time.
    At(Timestamp),
    /// This long before the message is decoded.
    Age {
        /// The age in microseconds; at least one second.
        us: i64,
        /// As it was written.
        text: String,
    },
}

impl fmt::Display for Earliest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => time.fmt(f),
            Self::Age { text, .. } => f.write_str(text),
        }
    }
}

impl Serialize for Earliest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Earliest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let age = text.strip_prefix('-').and_then(length_us);
        match age {
            Some(us) if us >= 1_000_000 => Ok(Self::Age { us, text }),
            Some(_) => Err(de::Error::custom("an age is at least -1s")),
            None => text.parse().map(Self::At).map_err(de::Error::custom),
        }
    }
}
