//! "Did you mean": the known name that a mistyped one resembles most.

use strsim::damerau_levenshtein;

/// The candidate that `name` resembles most, regardless of case and separators; `None` if it resembles none of them.
pub(crate) fn similar<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(name);
    let nearest = candidates.into_iter().map(|candidate| (damerau_levenshtein(&wanted, &plain(candidate)), candidate));
    let (distance, candidate) = nearest.min_by_key(|(distance, _)| *distance)?;
    (distance <= (wanted.chars().count() / 4).clamp(1, 3)).then_some(candidate)
}

/// `; did you mean …?` for such a candidate, empty without one.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    similar(name, candidates).map_or_else(String::new, |candidate| format!("; did you mean {candidate}?"))
}

/// The key that `path` resembles most: as a whole, or its last name in another section.
pub(super) fn similar_key<'a>(path: &str, keys: &'a [String]) -> Option<&'a str> {
    let last = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
    let name = path.rsplit('.').next().unwrap_or(path);
    let in_section = || keys.iter().filter(|key| parent(key) == parent(path)).map(|key| last(key));
    let whole = || similar(path, keys.iter().map(String::as_str));
    let elsewhere = || keys.iter().map(String::as_str).find(|key| plain(last(key)) == plain(name));
    match similar(name, in_section()) {
        Some(found) => keys.iter().map(String::as_str).find(|key| parent(key) == parent(path) && last(key) == found),
        None => elsewhere().or_else(whole),
    }
}

fn parent(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// The name in lower case, with each run of separators as one.
fn plain(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_what_is_like_none_is_not() {
        let names = ["earliest", "latest", "group-offsets"];
        for (name, expected) in [
            ("earlyest", Some("earliest")),
            ("EARLIEST", Some("earliest")),
            ("latset", Some("latest")),
            ("group_offsets", Some("group-offsets")),
            ("never", None),
            ("", None),
        ] {
            assert_eq!(similar(name, names), expected, "{name}");
        }
    }

    #[test]
    fn a_key_is_found_in_its_section_and_in_another() {
        let keys = ["batch.linger_ms", "batch.max_points", "message.max_points", "pipeline"].map(str::to_owned);
        for (path, expected) in [
            ("batch.linger", Some("batch.linger_ms")),
            ("batch.linger_m", Some("batch.linger_ms")),
            ("message.max_point", Some("message.max_points")),
            ("kafka.linger_ms", Some("batch.linger_ms")),
            ("bacth.linger_ms", Some("batch.linger_ms")),
            ("linger_ms", Some("batch.linger_ms")),
            ("pipelin", Some("pipeline")),
            ("batch.nothing", None),
            ("nothing", None),
        ] {
            assert_eq!(similar_key(path, &keys), expected, "{path}");
        }
    }
}
