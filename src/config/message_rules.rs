//! The limits of messages, with the first accepted time of a point.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::message::Limits;
use crate::message::length::length_us;
use crate::message::timestamp::YEAR_ONE_US;

/// The limits for a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageRules {
    /// Maximum length of a message, of its key and of its headers, in bytes each. Default 1 MiB; 1 to a quarter of
    /// `memory.limit_bytes`.
    pub max_bytes: usize,
    /// Maximum number of points in a message. Default 100000; at least 1.
    pub max_points: usize,
    /// Maximum length of a series' id and of a column's name, in bytes. Default 1024; 1 to 1300.
    pub max_name_bytes: usize,
    /// The first accepted time. Default 1900-01-01T00:00:00Z; a time not before the year 1, or an age.
    pub min_timestamp: Earliest,
    /// The first time that is too late. Default 2200-01-01T00:00:00Z; after `min_timestamp`.
    pub max_timestamp: Timestamp,
    /// If it is `true`, a message with an unknown field is invalid. Default `false`: such fields are ignored and counted.
    pub deny_unknown_fields: bool,
    /// Number of rejected messages after which a topic without a stored message is paused. Default 1000; 0 to
    /// 1000000000, 0 for never.
    pub rejections_before_pause: u64,
}

impl MessageRules {
    /// The age from which points are not accepted, in microseconds; `None` if there is none.
    pub fn max_age_us(&self) -> Option<i64> {
        match self.min_timestamp {
            Earliest::At(_) => None,
            Earliest::Age { us, .. } => Some(us),
        }
    }

    /// The limits in the decoder's form: times in microseconds since the Unix epoch. An age is not among them: see
    /// [`Self::max_age_us`].
    pub fn limits(&self) -> Limits {
        Limits {
            max_bytes: self.max_bytes,
            max_points: self.max_points,
            max_name_bytes: self.max_name_bytes,
            min_us: match &self.min_timestamp {
                Earliest::At(time) => time.as_microsecond(),
                Earliest::Age { .. } => YEAR_ONE_US,
            },
            max_us: self.max_timestamp.as_microsecond(),
            deny_unknown_fields: self.deny_unknown_fields,
        }
    }
}

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
