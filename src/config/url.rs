//! The database's URL: its parts, its password, and its masked form.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::secret::MASK;

/// The URL with its password masked, in the user part and in a `password` parameter. Text that is not a URL is masked entirely.
///
/// A password may contain any character unencoded by mistake, so too much is masked rather than too little.
pub fn mask_url(url: &str) -> String {
    const PARAMETER: &str = "password=";
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.to_owned();
    };
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(credentials), rest),
        None => (None, rest),
    };
    let credentials = match credentials {
        // The last `@` is in a parameter, or the parameter's name is in a password.
        Some(text) if text.to_ascii_lowercase().contains(PARAMETER) => {
            let shown = text.split([':', '?']).next().unwrap_or_default();
            return format!("{scheme}://{shown}{MASK}");
        }
        Some(text) => match text.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@"),
            None => format!("{text}@"),
        },
        None => String::new(),
    };
    match rest.to_ascii_lowercase().find(PARAMETER) {
        Some(at) => format!("{scheme}://{credentials}{}{MASK}", &rest[..at + PARAMETER.len()]),
        None => format!("{scheme}://{credentials}{rest}"),
    }
}

/// Returns `true` if this is a URL of PostgreSQL.
pub(super) fn is_postgres(url: &str) -> bool {
    matches!(url.split_once("://"), Some(("postgres" | "postgresql", _)))
}

/// Characters that end a part of a URL, each with its encoded form.
const SPECIAL: [(char, &str); 7] =
    [('@', "%40"), (':', "%3A"), ('/', "%2F"), ('?', "%3F"), ('#', "%23"), ('[', "%5B"), (']', "%5D")];

/// Describes the error in the form of a URL of PostgreSQL, without quoting any part of it: in a URL with an unencoded character
/// its password may stand anywhere.
///
/// It is stricter than the driver, which takes all before the first `@` for user and password, and so a part of a password with
/// an `@` for the host.
pub(super) fn fault(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let encode = |what: &str| format!("has {what}; percent-encode it, or use password_file");
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some(encode("a space, a line end or a control character (a space is %20)"));
    }
    let is_encoded = |after: &str| after.get(..2).is_some_and(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !rest.split('%').skip(1).all(is_encoded) {
        return Some(encode("a raw % (write %25)"));
    }
    let (credentials, server) = rest.split_once('@').map_or(("", rest), |(before, after)| (before, after));
    let password = credentials.split_once(':').map_or("", |(_, password)| password);
    let user = credentials.split(':').next().unwrap_or_default();
    let raw = SPECIAL.iter().find(|(special, _)| {
        password.contains(*special)
            || user.contains(*special)
            || matches!(special, '@' | '#') && server.contains(*special)
    });
    if let Some((special, encoded)) = raw {
        return Some(encode(&format!("a raw {special} in its user, password or parameters (write {encoded})")));
    }
    let hosts = server.split(['/', '?']).next().unwrap_or_default();
    let port = |host: &str| {
        let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
        after.split_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    if !hosts.split(',').all(port) {
        return Some(
            "has no number from 1 to 65535 as the port after its host; set postgresql://user:password@host:port/database, \
             with percent-encoded parts"
                .to_owned(),
        );
    }
    None
}

/// The parts of a URL with one host, decoded; missing parts are empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) host: String,
    pub(super) port: String,
    pub(super) database: String,
}

/// The parts of a URL in which [`fault`] finds no error.
pub(super) fn parts(url: &str) -> Parts {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (credentials, server) = rest.split_once('@').map_or(("", rest), |(before, after)| (before, after));
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let server = server.split('?').next().unwrap_or_default();
    let (hosts, database) = server.split_once('/').unwrap_or((server, ""));
    let (host, port) = match hosts.rsplit_once(']') {
        Some((host, port)) => (host.trim_start_matches('['), port.trim_start_matches(':')),
        None => hosts.split_once(':').unwrap_or((hosts, "")),
    };
    let parameter = |own: &str, name| {
        let own = percent_decoded(own);
        if own.is_empty() { parameters(url, name).into_iter().next_back().unwrap_or_default() } else { own }
    };
    Parts {
        user: parameter(user, "user"),
        password: parameter(password, "password"),
        host: parameter(host, "host"),
        port: parameter(port, "port"),
        database: parameter(database, "dbname"),
    }
}

/// The URL without the driver that SQLAlchemy names in its scheme: `postgresql+asyncpg://` becomes `postgresql://`.
pub(super) fn without_driver(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.split('+').next().unwrap_or(scheme)),
        None => url.to_owned(),
    }
}

/// Returns `true` if the URL has a password that is not empty.
pub(super) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or(rest);
    let password = authority.rsplit_once('@').and_then(|(credentials, _)| credentials.split_once(':'));
    let parameter = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == "password");
    [password, parameter].into_iter().flatten().any(|(_, password)| !password.is_empty())
}

/// The URL with this password, as a parameter, which needs no user.
pub(super) fn with_password(url: &str, password: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}password={}", percent_encoded(password))
}

/// The URL with these parts, which are not encoded yet; an empty one has its default: host 127.0.0.1, port 5432, database like
/// the user.
pub(super) fn from_parts(user: &str, password: &str, database: &str, host: &str, port: &str) -> String {
    let or = |text: &str, default: &str| percent_encoded(if text.is_empty() { default } else { text });
    let credentials = match (user.is_empty(), password.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!("{}@", percent_encoded(user)),
        (false, false) => format!("{}:{}@", percent_encoded(user), percent_encoded(password)),
    };
    let url =
        format!("postgresql://{credentials}{}:{}/{}", or(host, "127.0.0.1"), or(port, "5432"), or(database, user));
    if user.is_empty() && !password.is_empty() { with_password(&url, password) } else { url }
}

/// All characters except those that RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The text with all reserved characters percent-encoded.
fn percent_encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The URL before its query, and the query. Like in the driver, all before the first `@` is user and password.
fn split_query(url: &str) -> Option<(&str, &str)> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let start = url[start..].find('@').map_or(start, |at| start + at + 1);
    let at = start + url[start..].find('?')?;
    Some((&url[..at], &url[at + 1..]))
}

/// The values of a parameter of the URL's query, decoded.
pub(super) fn parameters(url: &str, name: &str) -> Vec<String> {
    let query = split_query(url).map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| percent_decoded(value)).collect()
}

/// The URL without these parameters.
pub(super) fn without_parameters(url: &str, names: &[&str]) -> String {
    let Some((base, query)) = split_query(url) else { return url.to_owned() };
    let other = |pair: &&str| !names.contains(&pair.split('=').next().unwrap_or(pair));
    let left: Vec<&str> = query.split('&').filter(other).collect();
    if left.is_empty() { base.to_owned() } else { format!("{base}?{}", left.join("&")) }
}

/// The parameters that name a server.
const SERVER_PARAMETERS: [&str; 3] = ["host", "hostaddr", "port"];

/// The URL with another server, `host:port`; `None` if it is not a URL.
pub fn with_server(url: &str, server: &str) -> Option<String> {
    let url = without_parameters(url, &SERVER_PARAMETERS);
    let (before, _) = url.split_once("://")?;
    let start = before.len() + 3;
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let host = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    Some(format!("{}{server}{}", &url[..host], &url[end..]))
}

/// The URL with another database; `None` if it is not a URL.
pub fn with_database(url: &str, name: &str) -> Option<String> {
    let (base, query) = split_query(url).map_or((url, None), |(base, query)| (base, Some(query)));
    let (scheme, rest) = base.split_once("://")?;
    let server = rest.split('/').next().unwrap_or(rest);
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    Some(format!("{scheme}://{server}/{name}{query}"))
}

/// The text with each `%XX` replaced by its byte; an incomplete one stays unchanged.
fn percent_decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
