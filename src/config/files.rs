//! Secrets that are read from files, and the final form of the URL.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::problems::Problems;
use super::secret::Secret;
use super::url;
use super::{Config, Database, Kafka};

/// Reads the files that the configuration names: the URLs, their password, and properties of librdkafka.
pub(super) fn read(config: &mut Config, problems: &mut Problems) {
    let database = &mut config.database;
    let mut connection = url_of("database.url", database.url.expose(), &database.url_file, problems);
    let mut reading = url_of("database.read_url", database.read_url.expose(), &database.read_url_file, problems);
    database.reads_with_own_password = url::has_password(&reading);
    if !database.password_file.is_empty() {
        if url::has_password(&connection) {
            problems.push("database.password_file", "the URL of the database has a password too; set one of them");
        } else if let Some(password) = content("database.password_file", &database.password_file, problems) {
            if !connection.is_empty() {
                connection = url::with_password(&connection, &password);
            }
            if !reading.is_empty() && !database.reads_with_own_password {
                reading = url::with_password(&reading, &password);
            }
        }
    }
    (database.url, database.read_url) = (Secret::new(connection), Secret::new(reading));

    let kafka = &mut config.kafka;
    for (name, path) in &kafka.properties_files {
        let key = format!("kafka.properties_files.{name}");
        if kafka.properties.contains_key(name) {
            problems.push(key, format!("kafka.properties.{name} is set too; set one of them"));
        } else if let Some(text) = content(&key, path, problems) {
            kafka.properties_read.insert(name.clone(), Secret::new(text));
        }
    }
}

/// The URL of a key or of the file that the key with `_file` names, without SQLAlchemy's driver; empty if neither is set.
fn url_of(key: &str, text: &str, file: &str, problems: &mut Problems) -> String {
    let mut found = text.to_owned();
    if !file.is_empty() {
        let file_key = format!("{key}_file");
        if !found.is_empty() {
            problems.push(file_key, format!("{key} is set too; set one of them"));
        } else if let Some(text) = content(&file_key, file, problems) {
            text.trim().clone_into(&mut found);
        }
    }
    if found.is_empty() { found } else { url::without_driver(&found) }
}

impl Database {
    /// Returns the same with the present URL and password from their files; without such files nothing changes.
    ///
    /// # Errors
    /// If a file cannot be used, with its key and the reason.
    pub(crate) fn with_secrets_read_again(&self) -> Result<Self, String> {
        let mut database = self.clone();
        let mut problems = Problems::default();
        let mut connection = self.url.expose().to_owned();
        if !self.url_file.is_empty()
            && let Some(text) = content(self.url_file_key(), &self.url_file, &mut problems)
        {
            connection = url::without_driver(&text);
        }
        if !self.password_file.is_empty()
            && let Some(password) = content("database.password_file", &self.password_file, &mut problems)
        {
            connection = url::with_password(&url::without_parameters(&connection, &["password"]), &password);
        }
        if !problems.is_empty() {
            return Err(problems.in_one_line());
        }
        database.url = Secret::new(connection);
        Ok(database)
    }
}

impl Kafka {
    /// Returns the same with the present properties from their files.
    ///
    /// # Errors
    /// If a file cannot be used, with its key and the reason.
    pub(crate) fn with_secrets_read_again(&self) -> Result<Self, String> {
        let mut kafka = self.clone();
        let mut problems = Problems::default();
        for (name, path) in &self.properties_files {
            if let Some(text) = content(&format!("kafka.properties_files.{name}"), path, &mut problems) {
                kafka.properties_read.insert(name.clone(), Secret::new(text));
            }
        }
        if problems.is_empty() { Ok(kafka) } else { Err(problems.in_one_line()) }
    }

    /// Returns `true` if this property's value is read from a file.
    pub(crate) fn reads_from_file(&self, property: &str) -> bool {
        self.properties_files.contains_key(property)
    }
}

/// More than any secret has. A path to an endless file must not fill the memory.
const MAX_BYTES: u64 = 1 << 20;

/// The text of a file with a secret.
///
/// # Errors
/// If it cannot be read, is not UTF-8, or is too long for any secret.
pub(crate) fn read_secret(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// The text without line ends at its end, which are easily added to a secret in a file or a variable by mistake.
pub(super) fn without_line_ends(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// The contents of the file, without line ends at its end.
fn content(key: &str, path: &str, problems: &mut Problems) -> Option<String> {
    match read_secret(path) {
        Ok(text) => {
            let text = without_line_ends(&text);
            if text.is_empty() {
                problems.push(key, format!("{path:?} is empty; write the secret into it"));
                return None;
            }
            Some(text.to_owned())
        }
        Err(error) => {
            problems.push(key, format!("{path:?} cannot be read: {error}; name a file that this user can read"));
            None
        }
    }
}
