//! The binary format of COPY for rows of (series, time, column, value).
//!
//! Source: PostgreSQL's documentation, COPY, "Binary Format". A row is the number of its fields (int16) and, for each, its
//! length (int32, -1 for NULL) and its bytes: text as it is, timestamptz as int64 microseconds since 2000-01-01 UTC, float8
//! as its IEEE 754 bits; all numbers big-endian. The fields' types are those of the table of `migrations/`, in the order of
//! the statement in `session.rs`.

use bytes::{BufMut, BytesMut};

use crate::message::{Order, Points};

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;
const NULL: i32 = -1;
const FIELDS: i16 = 4;

/// 2000-01-01 UTC, PostgreSQL's epoch, in microseconds since the Unix epoch.
pub(crate) const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Encodes points, in an order, chunk by chunk.
#[derive(Debug)]
pub struct CopyEncoder<'a> {
    points: &'a Points,
    order: &'a [u32],
    /// The bytes that are the same in all rows of a key; made when the key changes, which is rare in sorted points.
    head: Vec<u8>,
    middle: Vec<u8>,
    key: Option<usize>,
    begun: bool,
}

impl<'a> CopyEncoder<'a> {
    /// An encoder of `points` in `order`.
    pub fn new(points: &'a Points, order: &'a Order) -> Self {
        Self { points, order: order.indices(), head: Vec::new(), middle: Vec::new(), key: None, begun: false }
    }

    /// Appends rows to `chunk` until it holds `limit` bytes or more; returns `true` if more rows follow.
    pub fn encode_into(&mut self, chunk: &mut BytesMut, limit: usize) -> bool {
        if !self.begun {
            self.begun = true;
            chunk.put_slice(HEADER);
        }
        while let Some((index, rest)) = self.order.split_first() {
            if chunk.len() >= limit {
                return true;
            }
            self.order = rest;
            self.put_row(*index as usize, chunk);
        }
        chunk.put_i16(TRAILER);
        false
    }

    fn put_row(&mut self, index: usize, chunk: &mut BytesMut) {
        let key = self.points.key_of(index);
        if self.key != Some(key) {
            self.enter(key);
        }
        // One reservation for the whole row; the numbers are 8 + 4 + 8 bytes.
        chunk.reserve(self.head.len() + self.middle.len() + 20);
        chunk.put_slice(&self.head);
        chunk.put_i64(self.points.time_of(index) - POSTGRES_EPOCH_US);
        chunk.put_slice(&self.middle);
        let value = self.points.value_of(index);
        if value.is_nan() {
            chunk.put_i32(NULL);
        } else {
            chunk.put_i32(8);
            chunk.put_f64(value);
        }
    }

    fn enter(&mut self, key: usize) {
        let (series, column) = self.points.names(key);
        self.head.clear();
        self.head.put_i16(FIELDS);
        self.head.put_i32(length(series));
        self.head.put_slice(series.as_bytes());
        self.head.put_i32(8);
        self.middle.clear();
        self.middle.put_i32(length(column));
        self.middle.put_slice(column.as_bytes());
        self.key = Some(key);
    }
}

/// The decoder bounds names far below 2^31.
fn length(text: &str) -> i32 {
    i32::try_from(text.len()).expect("a name is shorter than 2 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_encoded_as_the_documentation_says() {
        let mut points = Points::default();
        let series = points.series("s");
        let key = points.key(series, "col");
        points.push(key, POSTGRES_EPOCH_US + 1, 1.5);
        points.push(key, POSTGRES_EPOCH_US + 2, f64::NAN);
        let mut chunk = BytesMut::new();
        assert!(!CopyEncoder::new(&points, &points.order()).encode_into(&mut chunk, 1 << 20));
        let mut expected = b"PGCOPY\n\xff\r\n\0".to_vec();
        expected.extend([0; 8]);
        for (time, value) in [(1_u8, Some(1.5_f64)), (2, None)] {
            expected
                .extend([0, 4, 0, 0, 0, 1, b's', 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, time, 0, 0, 0, 3, b'c', b'o', b'l']);
            match value {
                Some(value) => {
                    expected.extend([0, 0, 0, 8]);
                    expected.extend(value.to_be_bytes());
                }
                None => expected.extend([0xff; 4]),
            }
        }
        expected.extend([0xff, 0xff]);
        assert_eq!(&chunk[..], expected);
    }

    #[test]
    fn chunks_end_after_a_row_and_make_the_same_stream() {
        let mut points = Points::default();
        for series in ["b", "a"] {
            let series = points.series(series);
            for time in 0..50 {
                let key = points.key(series, if time % 2 == 0 { "even" } else { "odd" });
                points.push(key, time, time as f64);
            }
        }
        let order = points.order();
        let mut whole = BytesMut::new();
        assert!(!CopyEncoder::new(&points, &order).encode_into(&mut whole, usize::MAX));
        let mut encoder = CopyEncoder::new(&points, &order);
        let (mut parts, mut chunks, mut more) = (Vec::new(), 0, true);
        while more {
            let mut chunk = BytesMut::new();
            more = encoder.encode_into(&mut chunk, 100);
            assert!(chunk.len() < 200);
            parts.extend_from_slice(&chunk);
            chunks += 1;
        }
        assert!(chunks > 10);
        assert_eq!(parts, &whole[..]);
    }
}
