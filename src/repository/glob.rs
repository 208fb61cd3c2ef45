//! Patterns of ids.

use super::Error;

/// A pattern: `*` is any text, `?` any one character, `[a-z]` and `[!a-z]` one of them and none of them; a backslash takes the
/// meaning from the next character. The whole id has to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Is(char),
    Among { ranges: Vec<(char, char)>, is_negated: bool },
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Is(one) => *one == c,
            Self::Among { ranges, is_negated } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *is_negated
            }
        }
    }
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`Error::Pattern`] if a bracket is not closed or empty, a range goes backwards, or it ends in a backslash.
    pub fn parse(pattern: &str) -> Result<Self, Error> {
        let mut rest = pattern.chars();
        let mut parts = Vec::new();
        while let Some(c) = rest.next() {
            let part = match c {
                '*' => Ok(Part::Any),
                '?' => Ok(Part::One),
                '\\' => rest.next().map(Part::Is).ok_or("ends in a backslash"),
                '[' => among(&mut rest),
                other => Ok(Part::Is(other)),
            };
            let part = part.map_err(|why| Error::Pattern { pattern: pattern.to_owned(), why })?;
            // Two are as one, and slower.
            if part != Part::Any || parts.last() != Some(&Part::Any) {
                parts.push(part);
            }
        }
        Ok(Self(parts))
    }

    /// Returns `true` if the whole text is of this pattern.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut part, mut at) = (0, 0);
        // The last `*`, and where the text after it begins: only it is ever tried again.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match self.0.get(part) {
                Some(Part::Any) => {
                    retry = Some((part, at));
                    part += 1;
                }
                Some(one) if at < text.len() && one.takes(text[at]) => {
                    part += 1;
                    at += 1;
                }
                None if at == text.len() => return true,
                _ => {
                    let Some((star, from)) = retry.filter(|(_, from)| *from < text.len()) else { return false };
                    retry = Some((star, from + 1));
                    (part, at) = (star + 1, from + 1);
                }
            }
        }
    }
}

fn among(rest: &mut std::str::Chars<'_>) -> Result<Part, &'static str> {
    const OPEN: &str = "has a [ that is not closed";
    let mut next = |first: bool| -> Result<Option<char>, &'static str> {
        match rest.next().ok_or(OPEN)? {
            ']' if !first => Ok(None),
            '\\' => rest.next().map(Some).ok_or(OPEN),
            c => Ok(Some(c)),
        }
    };
    let mut members = Vec::new();
    let mut is_first = true;
    let mut is_negated = false;
    while let Some(c) = next(is_first && !is_negated && members.is_empty())? {
        if is_first && c == '!' {
            is_negated = true;
        } else {
            members.push(c);
        }
        is_first = false;
    }
    let (mut ranges, mut at) = (Vec::new(), 0);
    while let Some(first) = members.get(at) {
        match members.get(at + 1..at + 3) {
            Some(['-', last]) if first > last => return Err("has a range that goes backwards"),
            Some(['-', last]) => {
                ranges.push((*first, *last));
                at += 3;
            }
            _ => {
                ranges.push((*first, *first));
                at += 1;
            }
        }
    }
    if ranges.is_empty() { Err("has an empty [!]") } else { Ok(Part::Among { ranges, is_negated }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_texts() {
        for (pattern, yes, no) in [
            ("a*", vec!["a", "ab", "a\nb"], vec!["", "ba"]),
            ("*", vec!["", "anything"], vec![]),
            ("a?c", vec!["abc", "aüc"], vec!["ac", "abbc"]),
            ("*a*b", vec!["ab", "xaxb", "aabab"], vec!["ba", "abx"]),
            ("[a-c]1", vec!["a1", "c1"], vec!["d1", "-1"]),
            ("[!a-c]", vec!["d", "-"], vec!["b", ""]),
            ("[a-]", vec!["a", "-"], vec!["b"]),
            (r"\*\[", vec!["*["], vec!["x["]),
            ("", vec![""], vec!["a"]),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            for text in yes {
                assert!(glob.matches(text), "{pattern} {text:?}");
            }
            for text in no {
                assert!(!glob.matches(text), "{pattern} {text:?}");
            }
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_refused() {
        for pattern in ["[", "[a", "[!]", "[z-a]", "a\\", "[\\"] {
            assert!(Glob::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let glob = Glob::parse(&"a*".repeat(500)).unwrap();
        assert!(glob.matches(&"a".repeat(1000)));
        assert!(!glob.matches(&format!("b{}", "a".repeat(1000))));
        assert!(!Glob::parse(&format!("{}b", "a*".repeat(500))).unwrap().matches(&"a".repeat(1000)));
    }
}
