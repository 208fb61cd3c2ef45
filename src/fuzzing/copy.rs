//! Reads back what is encoded for COPY.

use bytes::{Buf, BytesMut};

use super::Input;
use crate::database::write::copy::CopyEncoder;
use crate::message::Points;

/// Series, column, microseconds since the Unix epoch, and the bits of the value; `None` is NULL.
type Row = (Vec<u8>, Vec<u8>, i64, Option<u64>);

/// 2000-01-01, PostgreSQL's epoch.
const EPOCH_US: i64 = 946_684_800_000_000;

/// Encodes points from the input, in chunks, and reads them as the server does.
///
/// # Panics
/// If a row differs from the encoded one, is missing or is extra, or the order differs.
pub fn copy(input: &[u8]) {
    let mut input = Input(input);
    // An encoder without room never ends.
    let limit = 1 + input.below(4096);
    let mut points = Points::default();
    let mut expected: Vec<Row> = Vec::new();
    while !input.is_empty() {
        let (series, column) = (name(&mut input), name(&mut input));
        // The years 1 to 9999, the limits of the configuration.
        let time = i64::from_le_bytes(input.array()).rem_euclid(315_537_897_600_000_000) - 62_135_596_800_000_000;
        let value = match input.byte() % 8 {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::NEG_INFINITY,
            3 => -0.0,
            _ => f64::from_bits(u64::from_le_bytes(input.array())),
        };
        for repeated in 0..1 + i64::from(input.byte() % 3) {
            let index = points.series(&series);
            let key = points.key(index, &column);
            points.push(key, time - repeated, value);
            let stored = (!value.is_nan()).then_some(value.to_bits());
            expected.push((series.clone().into_bytes(), column.clone().into_bytes(), time - repeated, stored));
        }
    }
    let order = points.order();
    let mut encoder = CopyEncoder::new(&points, &order);
    let (mut stream, mut more) = (Vec::new(), true);
    while more {
        let mut chunk = BytesMut::new();
        more = encoder.encode_into(&mut chunk, limit);
        stream.extend_from_slice(&chunk);
    }
    let read = rows(&stream).expect("the stream is whole");
    let place = |(series, column, time, _): &Row| (series.clone(), column.clone(), *time);
    // Stable, like the order of points.
    expected.sort_by_key(place);
    assert_eq!(read, expected);
}

/// Text of any characters that a name may have.
fn name(input: &mut Input<'_>) -> String {
    let bytes = usize::from(input.byte() % 32);
    let text = String::from_utf8_lossy(input.take(bytes)).replace('\0', "\\.");
    if text.is_empty() { "\n".to_owned() } else { text }
}

/// A reader of COPY's binary format, by PostgreSQL's documentation; `None` if the bytes are invalid.
fn rows(stream: &[u8]) -> Option<Vec<Row>> {
    let mut rest = stream.strip_prefix(b"PGCOPY\n\xff\r\n\0")?;
    let (_flags, extension) = (rest.try_get_u32().ok()?, rest.try_get_u32().ok()?);
    rest = rest.get(usize::try_from(extension).ok()?..)?;
    let mut rows = Vec::new();
    loop {
        match rest.try_get_i16().ok()? {
            -1 => return rest.is_empty().then_some(rows),
            4 => {}
            _ => return None,
        }
        let series = field(&mut rest)??.to_vec();
        let time = i64::from_be_bytes(field(&mut rest)??.try_into().ok()?).checked_add(EPOCH_US)?;
        let column = field(&mut rest)??.to_vec();
        let value = match field(&mut rest)? {
            Some(bytes) => Some(u64::from_be_bytes(bytes.try_into().ok()?)),
            None => None,
        };
        rows.push((series, column, time, value));
    }
}

/// A field; the inner `None` is NULL.
fn field<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = rest.try_get_i32().ok()?;
    if length == -1 {
        return Some(None);
    }
    let (field, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = behind;
    Some(Some(field))
}
