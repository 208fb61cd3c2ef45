//! The functions that the fuzz targets of `fuzz/` call with their input. The tests here call the same functions with random
//! input, so that they also run on a stable compiler. A function panics if the code violates a guarantee.

mod configuration;
mod copy;
mod files;
mod inputs;
mod journal;
mod message;

pub use configuration::configuration;
pub use copy::copy;
pub use inputs::inputs;
pub use journal::journal;
pub use message::message;

/// Derives values from a fuzzer's bytes; zeros if they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        usize::from(u16::from_le_bytes(self.array())) % limit.max(1)
    }

    /// At most `bytes` bytes.
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of messages, which are closer to the contract when combined at random than random bytes are.
    const PIECES: [&str; 44] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "null",
        "true",
        "NaN",
        "Infinity",
        "-",
        "0",
        "1",
        ".",
        "e",
        "E+",
        "1e999",
        "\"time_series_id\":",
        "\"timestamps\":",
        "\"columns\":",
        "\"points\":",
        "\"timestamp\":",
        "\"value\":",
        "\"column_name\":",
        "\"type\":\"series-create\"",
        "\"id\":",
        "\"s\"",
        " ",
        "\n",
        "é",
        "\"2012-01-01\"",
        "\u{feff}",
        "\"timestamp_unit\":",
        "\"ms\"",
        "{\"time_series_id\":\"s\",",
        "\"timestamps\":[0],",
        "\"columns\":{\"c\":[",
        "]}}",
        "\"value_columns\":[\"a\"]",
        "\"labels\":{\"a\":\"b\",\"c\":1}",
    ];

    /// Pieces of payloads in formats other than native.
    const PIECES_OF_INPUTS: [&str; 64] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "=",
        " ",
        "\n",
        "\r\n",
        "#",
        "1",
        "-",
        ".5",
        "e9",
        "1e999",
        "i",
        "u",
        "t",
        "false",
        "null",
        "NaN",
        "Infinity",
        "\0",
        "\\u0000",
        "\\ud800",
        "é",
        "\u{feff}",
        "\"a\":1,",
        "\"c\":1",
        "{\"c\":1}",
        "\"c\":\"1\"",
        "\"c\":null,",
        "\"s\":\"s\",",
        "\"t\":1,",
        "\"t\":\"2024-01-01T00:00:00Z\",",
        "\"t\":\"01.01.2024\",",
        "\"r\":[",
        "\"n\":[1],",
        "\"v\":",
        "\"m\":\"c\",",
        "\"name\":\"s\",",
        "\"tags\":{\"a\":\"b\"},",
        "\"fields\":{",
        "\"timestamp\":1",
        "\"metrics\":[",
        "\"labels\":{\"a\":\"b\"},",
        "\"value\":\"1\",",
        "\"payload\":{",
        "\"after\":{",
        "\"op\":\"c\"",
        "\"source\":{\"table\":\"t\"},",
        "\"source\":\"s\",",
        "\"data\":",
        "\"time\":\"2024-01-01T00:00:00Z\",",
        "s,a=b",
        " c=1",
        " d=2i",
        " 1",
        ",c=\"1\"",
        ",e=t",
        "m c=1 1\n",
    ];

    fn bytes(up_to: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..up_to)
    }

    /// Segments with a valid header that says how many records precede them.
    #[test]
    fn journals_whose_sequence_numbers_have_run_out() {
        for first_sequence in [u64::MAX, u64::MAX / 2, u64::MAX / 2 - 1, u64::MAX / 2 - 2] {
            let mut input = vec![0xff; 80];
            // The number of the segment, and a length that leaves room for its header.
            input[1..4].copy_from_slice(&[0, 72, 0]);
            input[36..44].copy_from_slice(&first_sequence.to_le_bytes());
            journal(&input);
        }
    }

    proptest! {
        #[test]
        fn messages_of_random_bytes(input in bytes(200)) {
            message(&input);
        }

        #[test]
        fn messages_of_random_pieces(pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40)) {
            message(pieces.concat().as_bytes());
        }

        #[test]
        fn numbers(number in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?") {
            message(number.as_bytes());
        }

        #[test]
        fn times(text in "[012][0-9]{3}-[01][0-9]-[0-3][0-9][Tt _][0-2][0-9]:[0-5][0-9](:[0-6][0-9]([.,][0-9]{1,12})?)?([zZ]|[+-][0-2][0-9]:?[0-6][0-9])?") {
            message(text.as_bytes());
        }

        #[test]
        fn changes_of_a_good_message(at in 0_usize..200, byte in any::<u8>(), cut in any::<bool>()) {
            let mut changed = br#"{"type":"point-batch","time_series_id":"s","timestamp_unit":"s","timestamps":["2012-01-01T00:00:00+01:00",1.5e3,7],"columns":{"a\u00e9":[12.8,null,-1e-3],"b":[NaN,"Infinity",-Infinity]},"x":[{}]}"#.to_vec();
            let at = at.min(changed.len() - 1);
            if cut { changed.truncate(at) } else { changed[at] = byte }
            message(&changed);
        }

        #[test]
        fn inputs_of_random_bytes(input in bytes(200)) {
            inputs(&input);
        }

        #[test]
        fn inputs_of_random_pieces(pieces in prop::collection::vec(prop::sample::select(PIECES_OF_INPUTS.to_vec()), 0..40)) {
            inputs(pieces.concat().as_bytes());
        }

        #[test]
        fn changes_of_good_messages_of_inputs(which in 0_usize..16, at in 0_usize..200, byte in any::<u8>(), cut in any::<bool>()) {
            let mut changed = inputs::INPUTS[which].1.as_bytes().to_vec();
            let at = at % changed.len();
            if cut { changed.truncate(at) } else { changed[at] = byte }
            inputs(&changed);
        }

        #[test]
        fn journals(input in bytes(600)) {
            journal(&input);
        }

        #[test]
        fn copies(input in bytes(2000)) {
            copy(&input);
        }

        #[test]
        fn configurations_of_random_bytes(input in bytes(200)) {
            configuration(&input);
        }

        #[test]
        fn configurations_of_random_lines(
            file in prop::collection::vec(prop::sample::select(include_str!("../../config/default.toml").lines().collect::<Vec<_>>()), 0..30),
            value in "[a-z0-9\"\\[\\]{}.=:/@?&% -]{0,12}",
            variable in "SERIES_INGEST__(KAFKA|DATABASE|BATCH|MESSAGE|KAFKA__PROPERTIES)__[A-Z_]{1,20}",
        ) {
            let mut sections = std::collections::BTreeMap::<&str, Vec<&str>>::new();
            let mut section = "";
            for line in file {
                if line.starts_with('[') { section = line }
                sections.entry(section).or_default().push(line);
            }
            let text: Vec<&str> = sections.into_values().flatten().collect();
            configuration(format!("{}\nx = {value}\0{variable}={value}", text.join("\n")).as_bytes());
            configuration(format!("{}\0{variable}={value}", text.join("\n")).as_bytes());
            configuration(format!("[kafka.properties]\n\"a.b\" = {value}\0DATABASE_URL={value}").as_bytes());
        }
    }
}
