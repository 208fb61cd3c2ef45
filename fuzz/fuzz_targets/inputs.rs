#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| series_ingest::fuzzing::inputs(input));
