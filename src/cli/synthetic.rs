//! Points that the demo and the benchmark make up.

/// The first timestamp of synthetic points, in seconds since the Unix epoch: 2025-01-01.
pub(super) const SYNTHETIC_FIRST_S: usize = 1_735_689_600;

/// The `round`-th message of a synthetic series, for the demo and the benchmark: one value per second in each column, with one
/// decimal.
pub(super) fn synthetic_message(series: &str, round: usize, timestamps: usize, columns: usize) -> String {
    let first = SYNTHETIC_FIRST_S + round * timestamps;
    let times: Vec<usize> = (first..first + timestamps).collect();
    let columns: serde_json::Map<String, serde_json::Value> = (0..columns)
        .map(|column| {
            let values: Vec<f64> = times.iter().map(|time| (time * (column + 1) % 1000) as f64 / 10.0).collect();
            (format!("c{column}"), values.into())
        })
        .collect();
    serde_json::json!({"type": "point-batch", "time_series_id": series, "timestamps": times, "columns": columns})
        .to_string()
}
