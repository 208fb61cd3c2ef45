//! The list of brokers: `host:port`, separated by commas.

use super::address::is_address;

/// Checks a list of brokers.
///
/// # Errors
/// If it is invalid, with the reason and what to set. An entry with an `@` may contain a password, and is not quoted.
pub(crate) fn check(brokers: &str) -> Result<(), String> {
    if brokers.trim().is_empty() {
        return Err("is empty; set a value, or omit the key for its default".to_owned());
    }
    brokers.split(',').map(str::trim).try_for_each(entry)
}

fn entry(entry: &str) -> Result<(), String> {
    if entry.is_empty() {
        return Err("has a comma with no broker next to it; remove the comma".to_owned());
    }
    if entry.contains('@') {
        let text = "has an @; set host:port alone, and user and password as sasl.username and sasl.password in kafka.properties";
        return Err(text.to_owned());
    }
    if let Some((scheme, address)) = entry.split_once("://") {
        let address = address.trim_end_matches('/');
        return Err(format!(
            "has the scheme {scheme}:// in {entry:?}; set {address:?}, and security.protocol in kafka.properties"
        ));
    }
    if entry.contains(|c: char| c.is_whitespace() || c == ';') {
        return Err(format!("has {entry:?}, which is not host:port; put commas between brokers"));
    }
    if is_address(entry) && !entry.ends_with(":0") {
        return Ok(());
    }
    let port = !entry.starts_with('[') && !entry.contains(':');
    let example = if port { format!("{entry}:9092") } else { "localhost:9092 or [::1]:9092".to_owned() };
    Err(format!("has {entry:?}, which is not host:port; set for instance {example}"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn brokers_are_hosts_with_ports() {
        for brokers in ["localhost:9092", "a:1,b:2", " a:1 , b:2", "[::1]:9092", "10.0.0.1:9092", "a.b-c_d:65535"] {
            assert_eq!(check(brokers), Ok(()), "{brokers}");
        }
    }

    #[test]
    fn what_is_not_a_list_of_brokers_is_refused_with_what_to_set() {
        for (brokers, expected) in [
            ("", "is empty"),
            (" ", "is empty"),
            ("a:1,", "has a comma with no broker next to it; remove the comma"),
            (",a:1", "has a comma with no broker next to it"),
            ("a:1,,b:2", "has a comma with no broker next to it"),
            ("kafka://a:1", "has the scheme kafka:// in \"kafka://a:1\"; set \"a:1\""),
            ("SASL_SSL://a:1/", "set \"a:1\", and security.protocol in kafka.properties"),
            ("a:1 b:2", "put commas between brokers"),
            ("a:1;b:2", "put commas between brokers"),
            ("broker", "set for instance broker:9092"),
            ("a:1,broker", "set for instance broker:9092"),
            ("a:port", "set for instance localhost:9092"),
            ("a:0", "which is not host:port"),
            ("a:65536", "which is not host:port"),
            (":9092", "which is not host:port"),
            ("::1:9092", "[::1]:9092"),
            ("[::1]", "[::1]:9092"),
        ] {
            let text = check(brokers).unwrap_err();
            assert!(text.contains(expected), "{brokers}: {text}");
        }
        let text = check("user:hunter2@a:1").unwrap_err();
        assert!(text.contains("sasl.username") && !text.contains("hunter2"), "{text}");
    }
}
