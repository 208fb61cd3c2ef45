//! Decoded points in columns.
//!
//! A point is 20 bytes: the index of its key, its time and its value, each in its own column. A key is a (series,
//! column) pair, whose names are stored once for a batch. Nothing is allocated for a single point.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// The index of a series of [`Points`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeriesIndex(u32);

/// The index of a (series, column) pair of [`Points`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyIndex(u32);

/// A place in [`Points`] to which they can be cut back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    series: usize,
    keys: usize,
    points: usize,
    labels_before: usize,
}

/// The points in the order in which they are copied: indices, sorted by series, column and time, bytewise as the database
/// sorts text of collation "C".
#[derive(Debug)]
pub struct Order(Vec<u32>);

impl Order {
    /// The indices of the points.
    pub fn indices(&self) -> &[u32] {
        &self.0
    }

    /// The points grouped into spans of `span_us` microseconds, counted from the Unix epoch, one span after the other; within
    /// a span they keep this order.
    pub fn cut(mut self, points: &Points, span_us: i64) -> Self {
        let span_of = |index: &u32| points.time_of[*index as usize].div_euclid(span_us);
        if !self.0.is_sorted_by_key(span_of) {
            self.0.sort_by_key(span_of);
        }
        self
    }

    /// Divides the points into `parts` orders, each point into the one that `part` returns; all keep this order.
    pub fn divide(&self, parts: usize, part: impl Fn(u32) -> usize) -> Vec<Self> {
        let mut divided: Vec<Self> = (0..parts).map(|_| Self(Vec::new())).collect();
        for point in &self.0 {
            divided[part(*point)].0.push(*point);
        }
        divided
    }
}

/// Points in columns.
#[derive(Debug, Default)]
pub struct Points {
    /// Randomly seeded: names come from outside, and could be chosen to collide.
    hasher: RandomState,
    series: Vec<Box<str>>,
    /// The labels of each series, as an object of JSON.
    labels: Vec<Option<Box<str>>>,
    /// The labels before the last message changed them, in case it is rejected.
    labels_before: Vec<(SeriesIndex, Option<Box<str>>)>,
    keys: Vec<Key>,
    series_by_name: HashTable<u32>,
    keys_by_name: HashTable<u32>,
    name_bytes: usize,
    message: u64,
    /// Where the last message began.
    message_mark: Mark,
    key_of: Vec<u32>,
    time_of: Vec<i64>,
    value_of: Vec<f64>,
}

#[derive(Debug)]
struct Key {
    series: u32,
    column: Box<str>,
    /// The number of the last message that named it as a column.
    message: u64,
}

impl Points {
    /// The number of points.
    pub fn len(&self) -> usize {
        self.key_of.len()
    }

    /// Returns `true` if there are none.
    pub fn is_empty(&self) -> bool {
        self.key_of.is_empty()
    }

    /// The memory they hold, in bytes.
    pub fn bytes(&self) -> usize {
        self.key_of.capacity() * size_of::<u32>()
            + self.time_of.capacity() * size_of::<i64>()
            + self.value_of.capacity() * size_of::<f64>()
            + self.name_bytes
            + self.series.capacity() * (size_of::<Box<str>>() + size_of::<u32>())
            + self.labels.capacity() * size_of::<Option<Box<str>>>()
            + self.keys.capacity() * (size_of::<Key>() + size_of::<u32>())
    }

    /// Begins a message; [`Points::cut_back`] to the returned mark removes it.
    pub fn begin_message(&mut self) -> Mark {
        self.message += 1;
        self.labels_before.clear();
        self.message_mark = self.mark();
        self.message_mark
    }

    /// Begins a record of a message: from now on each column is named for the first time again. [`Points::cut_back`] to the
    /// returned mark removes the record.
    pub fn begin_record(&mut self) -> Mark {
        self.message += 1;
        self.mark()
    }

    fn mark(&self) -> Mark {
        Mark {
            series: self.series.len(),
            keys: self.keys.len(),
            points: self.len(),
            labels_before: self.labels_before.len(),
        }
    }

    /// The labels of a series, as an object of JSON.
    pub fn labels(&self, series: SeriesIndex) -> Option<&str> {
        self.labels[series.0 as usize].as_deref()
    }

    /// Sets the labels of a series: an object of JSON.
    pub fn set_labels(&mut self, series: SeriesIndex, json: &str) {
        let labels = &mut self.labels[series.0 as usize];
        if labels.as_deref() == Some(json) {
            return;
        }
        let before = labels.replace(json.into());
        self.name_bytes += json.len();
        self.name_bytes -= length(before.as_deref());
        self.labels_before.push((series, before));
    }

    /// Each series that has labels, with its labels.
    pub fn series_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.series.iter().zip(&self.labels).filter_map(|(name, labels)| Some((&**name, labels.as_deref()?)))
    }

    /// Removes what was added since `mark`, the beginning of the last message or of a record of it.
    pub fn cut_back(&mut self, mark: Mark) {
        for (series, before) in self.labels_before.drain(mark.labels_before..).rev() {
            self.name_bytes += length(before.as_deref());
            let labels = &mut self.labels[series.0 as usize];
            self.name_bytes -= length(std::mem::replace(labels, before).as_deref());
        }
        self.key_of.truncate(mark.points);
        self.time_of.truncate(mark.points);
        self.value_of.truncate(mark.points);
        for index in (mark.keys..self.keys.len()).rev() {
            let key = &self.keys[index];
            let hash = self.hasher.hash_one((key.series, &*key.column));
            self.name_bytes -= key.column.len();
            if let Ok(entry) = self.keys_by_name.find_entry(hash, |at| *at as usize == index) {
                entry.remove();
            }
        }
        self.keys.truncate(mark.keys);
        for index in (mark.series..self.series.len()).rev() {
            let hash = self.hasher.hash_one(&*self.series[index]);
            self.name_bytes -= self.series[index].len();
            if let Ok(entry) = self.series_by_name.find_entry(hash, |at| *at as usize == index) {
                entry.remove();
            }
        }
        self.series.truncate(mark.series);
        self.labels.truncate(mark.series);
    }

    /// Removes those points of the last message for which `is_removed` returns `true`, given a series and a time in microseconds
    /// since the Unix epoch, together with the names and labels that only they have. Returns their number.
    pub fn remove_from_message(&mut self, is_removed: impl Fn(&str, i64) -> bool) -> usize {
        let first = self.message_mark.points;
        let is_kept = |index: &usize| {
            let (series, _, time_us, _) = self.get(*index);
            !is_removed(series, time_us)
        };
        let kept: Vec<usize> = (first..self.len()).filter(is_kept).collect();
        let removed = self.len() - first - kept.len();
        if removed == 0 {
            return 0;
        }
        let owned = |index: usize| {
            let (series, column, time_us, value) = self.get(index);
            let labels = self.labels[self.keys[self.key_of[index] as usize].series as usize].clone();
            (series.to_owned(), labels, column.to_owned(), time_us, value)
        };
        let kept: Vec<_> = kept.into_iter().map(owned).collect();
        self.cut_back(self.message_mark);
        for (series, labels, column, time_us, value) in kept {
            let series = self.series(&series);
            if let Some(labels) = labels {
                self.set_labels(series, &labels);
            }
            let key = self.key(series, &column);
            self.push(key, time_us, value);
        }
        removed
    }

    /// The index of a series, which is added if it is new.
    pub fn series(&mut self, name: &str) -> SeriesIndex {
        let (hasher, series) = (&self.hasher, &mut self.series);
        let entry = self.series_by_name.entry(
            hasher.hash_one(name),
            |at| *series[*at as usize] == *name,
            |at| hasher.hash_one(&*series[*at as usize]),
        );
        let index = *entry.or_insert_with(|| index_of(series.len())).get();
        if index as usize == series.len() {
            series.push(name.into());
            self.labels.push(None);
            self.name_bytes += name.len();
        }
        SeriesIndex(index)
    }

    /// The index of a column of a series, which is added if it is new.
    pub fn key(&mut self, series: SeriesIndex, column: &str) -> KeyIndex {
        let (hasher, keys) = (&self.hasher, &mut self.keys);
        let entry = self.keys_by_name.entry(
            hasher.hash_one((series.0, column)),
            |at| {
                let key = &keys[*at as usize];
                key.series == series.0 && *key.column == *column
            },
            |at| {
                let key = &keys[*at as usize];
                hasher.hash_one((key.series, &*key.column))
            },
        );
        let index = *entry.or_insert_with(|| index_of(keys.len())).get();
        if index as usize == keys.len() {
            keys.push(Key { series: series.0, column: column.into(), message: 0 });
            self.name_bytes += column.len();
        }
        KeyIndex(index)
    }

    /// Returns `true` if the column is named for the first time in this message.
    pub fn is_first_in_message(&mut self, key: KeyIndex) -> bool {
        let last = std::mem::replace(&mut self.keys[key.0 as usize].message, self.message);
        last != self.message
    }

    /// Adds a point: its time in microseconds since the Unix epoch, and its value; NaN is stored as NULL.
    pub fn push(&mut self, key: KeyIndex, time_us: i64, value: f64) {
        self.key_of.push(key.0);
        self.time_of.push(time_us);
        self.value_of.push(value);
    }

    /// Adds the points of one column: a value for each of the times, in microseconds since the Unix epoch. If there are fewer
    /// values than times, the times after them are omitted.
    pub fn push_column(&mut self, key: KeyIndex, times_us: &[i64], values: &[f64]) {
        let length = times_us.len().min(values.len());
        self.key_of.resize(self.key_of.len() + length, key.0);
        self.time_of.extend_from_slice(&times_us[..length]);
        self.value_of.extend_from_slice(&values[..length]);
    }

    /// The point at `index`: series, column, time in microseconds since the Unix epoch, value.
    pub fn get(&self, index: usize) -> (&str, &str, i64, f64) {
        let key = &self.keys[self.key_of[index] as usize];
        (&self.series[key.series as usize], &key.column, self.time_of[index], self.value_of[index])
    }

    /// The key of the point at `index`, as an index below [`Points::key_count`].
    pub fn key_of(&self, index: usize) -> usize {
        self.key_of[index] as usize
    }

    /// The time of the point at `index`, in microseconds since the Unix epoch.
    pub fn time_of(&self, index: usize) -> i64 {
        self.time_of[index]
    }

    /// The value of the point at `index`.
    pub fn value_of(&self, index: usize) -> f64 {
        self.value_of[index]
    }

    /// The number of (series, column) pairs.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The series and column at `key`.
    pub fn names(&self, key: usize) -> (&str, &str) {
        let key = &self.keys[key];
        (&self.series[key.series as usize], &key.column)
    }

    /// The name of a column.
    pub fn column_name(&self, key: KeyIndex) -> &str {
        &self.keys[key.0 as usize].column
    }

    /// The series that have a column, in the order in which they came.
    pub fn series_with_columns(&self) -> Vec<&str> {
        let mut has_column = vec![false; self.series.len()];
        self.keys.iter().for_each(|key| has_column[key.series as usize] = true);
        self.series.iter().zip(has_column).filter(|(_, has_column)| *has_column).map(|(name, _)| &**name).collect()
    }

    /// Each series with its columns, in the order in which they came; a series without a column is among them.
    pub fn series_columns(&self) -> Vec<(&str, Vec<&str>)> {
        self.series_columns_and_labels().into_iter().map(|(series, _, columns)| (series, columns)).collect()
    }

    /// The same, with the labels of each series that has any.
    pub fn series_columns_and_labels(&self) -> Vec<(&str, Option<&str>, Vec<&str>)> {
        let named = self.series.iter().zip(&self.labels);
        let mut all: Vec<_> = named.map(|(name, labels)| (&**name, labels.as_deref(), Vec::new())).collect();
        for key in &self.keys {
            all[key.series as usize].2.push(&*key.column);
        }
        all
    }

    /// The order by series, column and time.
    ///
    /// A bucket sort by key, so that only times are compared, which are usually sorted already.
    pub fn order(&self) -> Order {
        let mut by_name: Vec<usize> = (0..self.keys.len()).collect();
        by_name.sort_unstable_by_key(|key| self.names(*key));
        let mut ends = vec![0_u32; self.keys.len()];
        for key in &self.key_of {
            ends[*key as usize] += 1;
        }
        let mut start = 0;
        for key in &by_name {
            // From here on the index of the key's next point, and in the end the end of its bucket.
            let count = std::mem::replace(&mut ends[*key], start);
            start += count;
        }
        let mut order = vec![0_u32; self.len()];
        for (index, key) in (0_u32..).zip(&self.key_of) {
            let place = &mut ends[*key as usize];
            order[*place as usize] = index;
            *place += 1;
        }
        let mut start = 0;
        for key in by_name {
            let end = ends[key] as usize;
            let bucket = &mut order[start..end];
            if !bucket.is_sorted_by_key(|index| self.time_of[*index as usize]) {
                bucket.sort_by_key(|index| self.time_of[*index as usize]);
            }
            start = end;
        }
        Order(order)
    }
}

fn length(labels: Option<&str>) -> usize {
    labels.map_or(0, str::len)
}

/// A batch is bounded by bytes and by points, far below 2^32.
fn index_of(len: usize) -> u32 {
    u32::try_from(len).expect("a batch has fewer than 2^32 names")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(points: &Points) -> Vec<(String, String, i64, f64)> {
        (0..points.len())
            .map(|index| {
                let (series, column, time, value) = points.get(index);
                (series.to_owned(), column.to_owned(), time, value)
            })
            .collect()
    }

    #[test]
    fn an_order_is_cut_where_a_span_ends() {
        let mut points = Points::default();
        let series = points.series("s");
        let (a, b) = (points.key(series, "a"), points.key(series, "b"));
        for (key, time) in [(b, 9), (a, 10), (a, -1), (b, 0), (a, 19), (a, 0), (b, -5)] {
            points.push(key, time, 0.0);
        }
        let cut = |span_us| points.order().cut(&points, span_us).indices().to_vec();
        assert_eq!(cut(10), [2, 6, 5, 3, 0, 1, 4], "each span by column and time, also before the epoch");
        assert_eq!(cut(100), [2, 6, 5, 1, 4, 3, 0]);
        assert_eq!(cut(i64::MAX), [2, 6, 5, 1, 4, 3, 0]);
    }

    #[test]
    fn a_rejected_message_leaves_nothing() {
        let mut points = Points::default();
        points.begin_message();
        let a = points.series("a");
        let key = points.key(a, "x");
        points.push(key, 1, 1.0);
        let before = (all(&points), points.bytes());
        let mark = points.begin_message();
        let b = points.series("b");
        for column in ["x", "y", "z"] {
            let key = points.key(b, column);
            points.push(key, 2, 2.0);
        }
        let key = points.key(a, "y");
        points.push(key, 3, 3.0);
        points.cut_back(mark);
        assert_eq!(all(&points), before.0);
        assert_eq!(points.series_columns(), [("a", vec!["x"])]);
        let again = points.series("b");
        assert_eq!(points.key(again, "x"), KeyIndex(1), "its name is given a new index");
        assert_eq!(points.series("a"), a);
        assert_eq!(points.key(a, "x"), KeyIndex(0));
    }

    #[test]
    fn labels_are_those_of_the_last_message_that_was_not_rejected() {
        let mut points = Points::default();
        points.begin_message();
        let a = points.series("a");
        points.set_labels(a, r#"{"x":1}"#);
        points.begin_message();
        points.set_labels(a, r#"{"x":22}"#);
        let before = points.bytes();
        let mark = points.begin_message();
        let b = points.series("b");
        for labels in ["{}", r#"{"x":3}"#] {
            points.set_labels(a, labels);
            points.set_labels(b, labels);
        }
        points.cut_back(mark);
        assert_eq!(points.series_labels().collect::<Vec<_>>(), [("a", r#"{"x":22}"#)]);
        // The capacity for what was removed stays allocated.
        assert!((before..before + 200).contains(&points.bytes()), "{} {before}", points.bytes());
        let again = points.series("b");
        assert_eq!(points.labels(again), None);
        // Cutting back a record of a message removes only its own labels.
        points.begin_message();
        points.begin_record();
        points.set_labels(a, r#"{"x":4}"#);
        let mark = points.begin_record();
        points.set_labels(a, r#"{"x":5}"#);
        points.cut_back(mark);
        assert_eq!(points.labels(a), Some(r#"{"x":4}"#));
    }

    #[test]
    fn points_of_a_message_are_removed_with_names_and_labels_that_only_they_have() {
        let mut points = Points::default();
        points.begin_message();
        let a = points.series("a");
        points.set_labels(a, r#"{"x":1}"#);
        let key = points.key(a, "x");
        points.push(key, 1, 1.0);
        let before = all(&points);
        points.begin_message();
        for (series, labels) in [("a", r#"{"x":2}"#), ("b", "{}"), ("c", r#"{"y":1}"#)] {
            let series = points.series(series);
            points.set_labels(series, labels);
            for time in [1, 2, 3] {
                let key = points.key(series, "y");
                points.push(key, time, time as f64);
            }
        }
        assert_eq!(points.remove_from_message(|_, _| false), 0);
        let removed = points.remove_from_message(|series, time_us| series != "c" || time_us == 2);
        assert_eq!(removed, 7);
        let rest = [("c", "y", 1, 1.0), ("c", "y", 3, 3.0)].map(|(s, c, t, v)| (s.to_owned(), c.to_owned(), t, v));
        assert_eq!(all(&points), [&before[..], &rest].concat());
        assert_eq!(points.series_columns(), [("a", vec!["x"]), ("c", vec!["y"])]);
        assert_eq!(points.series_labels().collect::<Vec<_>>(), [("a", r#"{"x":1}"#), ("c", r#"{"y":1}"#)]);
    }

    #[test]
    fn a_column_is_first_once_in_each_message() {
        let mut points = Points::default();
        points.begin_message();
        let series = points.series("s");
        let key = points.key(series, "x");
        assert!(points.is_first_in_message(key));
        assert!(!points.is_first_in_message(key));
        points.begin_message();
        assert!(points.is_first_in_message(key));
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_a_plain_sort(
            rows in prop::collection::vec(("[a-c]{1,2}", "[x-z]", -3_i64..3), 0..200)
        ) {
            let mut points = Points::default();
            for (series, column, time) in &rows {
                let series = points.series(series);
                let key = points.key(series, column);
                points.push(key, *time, 0.5);
            }
            let mut expected: Vec<usize> = (0..rows.len()).collect();
            expected.sort_by_key(|index| &rows[*index]);
            let order: Vec<usize> = points.order().indices().iter().map(|index| *index as usize).collect();
            prop_assert_eq!(order, expected);
        }
    }
}
