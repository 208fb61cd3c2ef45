//! A text as a word of the shell, for commands that a person is to run.

/// The text as a word that bash and other shells take for it, on one line.
pub(super) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    let is_shown = |c: char| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
    if text.chars().all(is_shown) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut word = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            c if is_shown(c) => word.push(c),
            c => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    word.push_str(&format!("\\x{byte:02x}"));
                }
            }
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_word_for_the_text() {
        for text in
            ["", "a.csv", "-b", "it's", "a b", "$(x) `y` \"z\" \\", "-b 'q'\n.csv", "\u{1b}[2J0", "\u{202e}é", "\t1\\"]
        {
            let word = shell_word(text);
            assert!(!word.contains(char::is_control) && !word.contains('\u{202e}'), "{word}");
            let printed =
                std::process::Command::new("bash").args(["-c", &format!("printf %s {word}")]).output().unwrap();
            assert_eq!(String::from_utf8(printed.stdout).unwrap(), text, "{word}");
        }
    }
}
