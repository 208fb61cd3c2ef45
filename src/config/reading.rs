//! The settings of connections that only read.

use super::Database;

impl Database {
    /// The same settings for the hosts of `read_url`; `None` if there are none.
    pub fn for_reading(&self) -> Option<Self> {
        let password_file = if self.reads_with_own_password { String::new() } else { self.password_file.clone() };
        (!self.read_url.is_empty()).then(|| Self {
            url: self.read_url.clone(),
            url_file: self.read_url_file.clone(),
            password_file,
            is_for_reading: true,
            ..self.clone()
        })
    }

    /// The key of the URL, for messages.
    pub fn url_key(&self) -> &'static str {
        if self.is_for_reading { "database.read_url" } else { "database.url" }
    }

    /// The key of the file with the URL, for messages.
    pub(super) fn url_file_key(&self) -> &'static str {
        if self.is_for_reading { "database.read_url_file" } else { "database.url_file" }
    }
}
