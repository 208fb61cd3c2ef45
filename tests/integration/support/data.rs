//! What is published, and what the table should then hold.

/// Series, column, microseconds since the Unix epoch, the value's bits; NULL has the bits of [`NULL`].
pub type Row = (String, String, i64, u64);

pub const NULL: f64 = f64::NAN;

pub fn bits(value: Option<f64>) -> u64 {
    value.unwrap_or(NULL).to_bits()
}

/// Everything that was published.
#[derive(Debug, Default, Clone)]
pub struct Published {
    pub rows: Vec<Row>,
    next_s: i64,
}

/// 2025-01-01.
const FIRST_S: i64 = 1_735_689_600;

impl Published {
    /// A point batch with new timestamps, one a second, and two columns; its points are noted as published.
    pub fn batch(&mut self, series: &str, timestamps: usize) -> String {
        let first = FIRST_S + self.next_s;
        self.next_s += timestamps as i64;
        self.batch_of(series, (first..).take(timestamps).collect(), "s", 1_000_000)
    }

    /// The same with the given timestamps, in microseconds.
    pub fn batch_at(&mut self, series: &str, times_us: Vec<i64>) -> String {
        self.batch_of(series, times_us, "us", 1)
    }

    fn batch_of(&mut self, series: &str, times: Vec<i64>, unit: &str, unit_us: i64) -> String {
        let mut columns = serde_json::Map::new();
        for (column, factor) in [("a", 3), ("b", 7)] {
            let values: Vec<f64> = times.iter().map(|time| (time * factor % 10_000) as f64 / 8.0).collect();
            for (time, value) in times.iter().zip(&values) {
                self.rows.push((series.to_owned(), column.to_owned(), time * unit_us, value.to_bits()));
            }
            columns.insert(column.to_owned(), values.into());
        }
        serde_json::json!({
            "type": "point-batch", "time_series_id": series, "timestamp_unit": unit, "timestamps": times, "columns": columns
        })
        .to_string()
    }

    /// The same as a message of just `bytes` bytes, `random` of them random; the rest is blank, and compresses to nothing.
    pub fn padded_batch(&mut self, series: &str, timestamps: usize, bytes: usize, random: usize) -> String {
        let mut batch = self.large_batch(series, timestamps, random);
        let blank = bytes.checked_sub(batch.len()).expect("there is room for the points and the random bytes");
        batch.extend(std::iter::repeat_n(' ', blank));
        batch
    }

    /// The same with a field that is skipped, of this many random characters.
    pub fn large_batch(&mut self, series: &str, timestamps: usize, bytes: usize) -> String {
        use rand::RngExt as _;
        let noise: String = rand::rng().sample_iter(rand::distr::Alphanumeric).take(bytes).map(char::from).collect();
        let batch = self.batch(series, timestamps);
        format!("{{\"noise\": \"{noise}\", {}", &batch[1..])
    }
}

/// How a table differs from what was published.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Published rows that are not there.
    pub lost: usize,
    /// Rows that are there more often than published.
    pub duplicated: usize,
    /// Rows with no such row published.
    pub invented: usize,
}

impl Difference {
    pub fn between(mut published: Vec<Row>, mut stored: Vec<Row>) -> Self {
        published.sort_unstable();
        stored.sort_unstable();
        let mut difference = Self::default();
        let (mut p, mut s) = (published.iter().peekable(), stored.iter().peekable());
        let mut last_matched = None;
        loop {
            match (p.peek(), s.peek()) {
                (None, None) => return difference,
                (Some(a), Some(b)) if a == b => {
                    last_matched = p.next();
                    s.next();
                }
                (Some(a), b) if b.is_none_or(|b| a < b) => {
                    difference.lost += 1;
                    p.next();
                }
                (_, Some(b)) => {
                    if last_matched == Some(*b) {
                        difference.duplicated += 1;
                    } else {
                        difference.invented += 1;
                    }
                    s.next();
                }
                (Some(_), None) => unreachable!("a row without a counterpart is lost"),
            }
        }
    }
}

#[test]
fn the_checker_distinguishes_lost_duplicated_and_invented() {
    let row = |n: i64| ("s".to_owned(), "c".to_owned(), n, 0);
    let difference =
        Difference::between(vec![row(1), row(2), row(2), row(3)], vec![row(2), row(2), row(2), row(3), row(9)]);
    assert_eq!(difference, Difference { lost: 1, duplicated: 1, invented: 1 });
    assert_eq!(Difference::between(vec![row(1)], vec![row(1)]), Difference::default());
}
