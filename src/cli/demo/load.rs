//! The messages that the demo publishes: real data, mixed with synthetic points.

use std::ops::Range;
use std::sync::Arc;

use super::{Failure, synthetic_message};
use crate::cli::interrupt::is_interrupted;
use crate::config::Kafka;
use crate::kafka::publisher::Publisher;

/// NOAA's daily observations of Seattle, 2012 to 2015, in the public domain.
const SEATTLE: &str = include_str!("../../../examples/seattle-weather.csv");
const SEATTLE_COLUMNS: [&str; 4] = ["precipitation", "temp_max", "temp_min", "wind"];
const DAYS_A_MESSAGE: usize = 100;
/// Number of timestamps in a synthetic message, each with 5 columns.
const SYNTHETIC_TIMES: usize = 20;
const SYNTHETIC_COLUMNS: usize = 5;
const SYNTHETIC_SERIES: usize = 100;
const SYNTHETIC_POINTS: usize = SYNTHETIC_TIMES * SYNTHETIC_COLUMNS;

/// The published messages and points. All values have one decimal, so that their sum can be compared exactly.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Published {
    pub(super) messages: usize,
    pub(super) points: usize,
    pub(super) tenths: i64,
}

impl std::ops::AddAssign for Published {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.points += more.points;
        self.tenths += more.tenths;
    }
}

/// A numbered list of messages, built when they are published.
#[derive(Debug)]
pub(super) struct Load {
    publisher: Publisher,
    series_topic: String,
    points_topic: String,
    /// The real data, each message with its number of points; its definition is the first.
    seattle: Vec<(String, usize)>,
    messages: usize,
}

impl Load {
    pub(super) fn new(publisher: Publisher, kafka: &Kafka, synthetic_points: usize) -> Self {
        let seattle = seattle_messages();
        let messages = seattle.len() + synthetic_points.div_ceil(SYNTHETIC_POINTS);
        let (series_topic, points_topic) = (kafka.series_topic.clone(), kafka.points_topic.clone());
        Self { publisher, series_topic, points_topic, seattle, messages }
    }

    /// Total number of points.
    pub(super) fn points(&self) -> usize {
        let real: usize = self.seattle.iter().map(|(_, points)| points).sum();
        real + (self.messages - self.seattle.len()) * SYNTHETIC_POINTS
    }

    /// Publishes some eighths of the load, and waits until Kafka has them.
    pub(super) async fn publish(self: &Arc<Self>, eighths: Range<usize>) -> Result<Published, Failure> {
        let load = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut published = Published::default();
            for number in load.messages * eighths.start / 8..load.messages * eighths.end / 8 {
                if is_interrupted() {
                    break;
                }
                published += load.send(number)?;
            }
            load.publisher.flush()?;
            Ok(published)
        })
        .await
        .map_err(|error| Failure::Internal(error.to_string()))?
    }

    fn send(&self, number: usize) -> Result<Published, Failure> {
        // The real messages are spread evenly, so that every phase has some.
        let stride = self.messages / self.seattle.len();
        let (topic, series, payload, points) = match self.seattle.get(number / stride) {
            Some((payload, points)) if number.is_multiple_of(stride) => {
                let topic = if number == 0 { &self.series_topic } else { &self.points_topic };
                (topic, "seattle-weather".to_owned(), payload.clone(), *points)
            }
            _ => {
                let number = number - (number / stride + 1).min(self.seattle.len());
                let series = format!("synthetic-{:03}", number % SYNTHETIC_SERIES);
                let round = number / SYNTHETIC_SERIES;
                let payload = synthetic_message(&series, round, SYNTHETIC_TIMES, SYNTHETIC_COLUMNS);
                (&self.points_topic, series, payload, SYNTHETIC_POINTS)
            }
        };
        self.publisher.send(topic, None, &series, payload.as_bytes())?;
        Ok(Published { messages: 1, points, tenths: tenths(&payload) })
    }
}

/// Returns `true` if these are all points of the real data, by column.
pub(super) fn is_all_of_seattle(points: &std::collections::BTreeMap<String, usize>) -> bool {
    let days = SEATTLE.lines().count() - 1;
    SEATTLE_COLUMNS.iter().all(|column| points.get(*column) == Some(&days))
}

/// The sum of a message's values, in tenths.
fn tenths(payload: &str) -> i64 {
    let message: serde_json::Value = serde_json::from_str(payload).unwrap_or_default();
    let columns = message["columns"].as_object().into_iter().flat_map(|columns| columns.values());
    let values =
        columns.flat_map(|values| values.as_array().into_iter().flatten()).filter_map(serde_json::Value::as_f64);
    values.map(|value| (value * 10.0).round() as i64).sum()
}

/// The real data's definition, and its points in the columnar shape.
fn seattle_messages() -> Vec<(String, usize)> {
    let definition = serde_json::json!({
        "type": "series-create", "id": "seattle-weather", "name": "Seattle weather", "description": "NOAA daily",
        "time_column": "date", "value_columns": SEATTLE_COLUMNS,
    });
    let rows: Vec<Vec<&str>> = SEATTLE.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let batches = rows.chunks(DAYS_A_MESSAGE).map(|days| {
        let dates: Vec<String> = days.iter().map(|row| row[0].replace('/', "-")).collect();
        let columns: serde_json::Map<String, serde_json::Value> = SEATTLE_COLUMNS
            .iter()
            .zip(1..)
            .map(|(name, at)| {
                let values: Vec<f64> = days.iter().map(|row| row[at].parse().unwrap_or(f64::NAN)).collect();
                ((*name).to_owned(), values.into())
            })
            .collect();
        let message = serde_json::json!({
            "type": "point-batch", "time_series_id": "seattle-weather", "timestamps": dates, "columns": columns,
        });
        (message.to_string(), days.len() * SEATTLE_COLUMNS.len())
    });
    std::iter::once((definition.to_string(), 0)).chain(batches).collect()
}
