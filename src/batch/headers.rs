//! A message's headers as one run of bytes: for each header the length of its name (u32), the name, the length of its value
//! (i32, -1 for none), the value; numbers little-endian. So they travel with the message through memory and the journal
//! without an allocation for each.

/// The length of a value that is not there.
const NONE: i32 = -1;

/// Adds a header. What is longer than 2 GiB cannot come from Kafka, and is cut off.
pub fn put(headers: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    let name = &name.as_bytes()[..name.len().min(i32::MAX as usize)];
    headers.extend_from_slice(&(name.len() as u32).to_le_bytes());
    headers.extend_from_slice(name);
    let value = value.map(|value| &value[..value.len().min(i32::MAX as usize)]);
    headers.extend_from_slice(&value.map_or(NONE, |value| value.len() as i32).to_le_bytes());
    headers.extend_from_slice(value.unwrap_or_default());
}

/// The headers in their order: name and value. Ends early where the bytes are none of [`put`].
pub fn iter(mut headers: &[u8]) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    std::iter::from_fn(move || {
        let (length, rest) = headers.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = match i32::from_le_bytes(*length) {
            NONE => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(value), rest)
            }
        };
        headers = rest;
        Some((std::str::from_utf8(name).ok()?, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_come_back_as_they_were(
            headers in prop::collection::vec((".{0,8}", prop::option::of(prop::collection::vec(any::<u8>(), 0..8))), 0..6)
        ) {
            let mut bytes = Vec::new();
            for (name, value) in &headers {
                put(&mut bytes, name, value.as_deref());
            }
            let back: Vec<_> = iter(&bytes).map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(back, headers);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(iter(&bytes).count() <= bytes.len());
        }
    }
}
