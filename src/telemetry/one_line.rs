//! One line for each log line: text of a server, a trigger or a message cannot begin a new one, or move the cursor.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use super::misleads;

/// Writers of log lines for people, in which control characters are escaped.
#[derive(Debug, Clone)]
pub(super) struct OneLine<W> {
    writer: W,
    /// `true` if sequences that change colours, as the library writes them, are kept.
    keeps_colours: bool,
}

impl<W> OneLine<W> {
    pub(super) fn new(writer: W, keeps_colours: bool) -> Self {
        Self { writer, keeps_colours }
    }
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = LineWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter { writer: self.writer.make_writer(), keeps_colours: self.keeps_colours }
    }
}

/// Returns `true` if the text begins with a sequence that only changes colours: `ESC [`, digits and semicolons, `m`.
fn is_colour(text: &str) -> bool {
    let parameters =
        text.strip_prefix("\u{1b}[").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
    parameters.is_some_and(|rest| rest.starts_with('m'))
}

/// Writes one log line with each call of `write`.
#[derive(Debug)]
pub(super) struct LineWriter<W> {
    writer: W,
    keeps_colours: bool,
}

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (line, end) = bytes.strip_suffix(b"\n").map_or((bytes, ""), |line| (line, "\n"));
        let text = String::from_utf8_lossy(line);
        if !text.contains(misleads) {
            self.writer.write_all(bytes)?;
            return Ok(bytes.len());
        }
        let mut escaped = String::with_capacity(text.len() + 16);
        for (at, character) in text.char_indices() {
            if !misleads(character) || self.keeps_colours && is_colour(&text[at..]) {
                escaped.push(character);
            } else {
                escaped.extend(character.escape_default());
            }
        }
        escaped.push_str(end);
        self.writer.write_all(escaped.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
