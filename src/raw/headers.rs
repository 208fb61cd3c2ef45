//! The headers of a message encoded as one byte string, as stored with it: for each header its name and its value, each after
//! its length as a little-endian int32; -1 means that there is no value, as in Kafka's format. A -2 alone means that there are
//! headers that could not be read.

/// Encodes the headers; `None` if there are none.
pub fn encode<'a>(headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = |part: &[u8]| i32::try_from(part.len()).expect("Kafka's lengths are int32").to_le_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(&length(name));
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&value.map_or((-1_i32).to_le_bytes(), length));
        bytes.extend_from_slice(value.unwrap_or_default());
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// The encoding of headers that cannot be read.
pub const UNREADABLE: [u8; 4] = (-2_i32).to_le_bytes();

/// Decodes the headers of `bytes`, up to the first that is truncated or invalid. Invalid UTF-8 in a name is replaced.
pub fn decode(bytes: &[u8]) -> Vec<(String, Option<&[u8]>)> {
    iterate(bytes).map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value)).collect()
}

/// The same as an iterator, with names as bytes.
pub fn iterate(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    std::iter::from_fn(move || {
        let (name, rest) = part(bytes)?;
        let (value, rest) = part(rest)?;
        bytes = rest;
        Some((name?, value))
    })
    .fuse()
}

/// The part at the start, and what follows it.
fn part(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    match i32::from_le_bytes(*length) {
        -1 => Some((None, rest)),
        length => rest.split_at_checked(usize::try_from(length).ok()?).map(|(part, rest)| (Some(part), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_truncated_ones_are_omitted() {
        let headers =
            [("trace", Some(&b"\xff\0"[..])), ("none", None), ("", Some(&b""[..])), ("trace", Some(&b"2"[..]))];
        let bytes = encode(headers.map(|(name, value)| (name.as_bytes(), value))).unwrap();
        let expected = headers.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(decode(&bytes), expected);
        for end in 0..bytes.len() {
            let cut = decode(&bytes[..end]);
            assert_eq!(cut, expected[..cut.len()]);
        }
        assert_eq!(encode([]), None);
        assert_eq!(decode(&UNREADABLE), []);
        assert_eq!(decode(&[0xff; 9]), []);
        let odd = encode([(&b"\xffa"[..], Some(&b"1"[..]))]).unwrap();
        assert_eq!(decode(&odd), [("\u{fffd}a".to_owned(), Some(&b"1"[..]))]);
    }
}
