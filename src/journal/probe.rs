//! The check that an open journal still has its records and can append another, for times in which nothing is appended.

use std::time::Duration;

use super::directory;
use super::error::AppendError;
use super::examine::doubts;
use super::files::Files;
use super::format::HEADER_BYTES;
use super::journal::Journal;
use super::place::check_lengths;
use super::room::check_volume;
use super::stop::{Stop, is_out_of_space};

/// Time for which an acknowledged append shows that the disk can be written.
const FRESH: Duration = Duration::from_secs(4);

impl<F: Files> Journal<F> {
    /// Checks that all acknowledged records can be found again, and that an append would succeed: for times in which nothing
    /// is appended. What is missing is recreated if that is possible.
    ///
    /// # Errors
    /// Those of an append.
    pub fn probe(&mut self) -> Result<(), AppendError> {
        if let Some(what) = self.gone.clone() {
            self.open_again(what)?;
        }
        let again = match self.try_probe() {
            Err(Stop::Gone(what)) => {
                self.open_again(what)?;
                self.try_probe()
            }
            // An append tries twice as well.
            Err(Stop::Io(_)) => self.try_probe(),
            result => result,
        };
        again.map_err(Stop::into_error)
    }

    fn try_probe(&mut self) -> Result<(), Stop> {
        let directory = &self.options.directory;
        self.place.check(&self.files, directory, &self.index, self.current.as_ref())?;
        check_lengths(&self.files, directory, &self.index)?;
        if self.current.is_none() {
            // The space of the journal itself is free again when it is drained.
            check_volume(&self.files, directory, &self.options, self.used_bytes())?;
        }
        if self.appended_at.is_none_or(|at| at.elapsed() >= FRESH) {
            directory::probe(&self.files, directory).map_err(|error| match is_out_of_space(&error) {
                true => self.disk_is_full(HEADER_BYTES),
                false => error.into(),
            })?;
        }
        Ok(())
    }

    /// Known problems of its file system's type.
    pub fn doubts(&self) -> Option<String> {
        doubts(&self.files, &self.options.directory)
    }
}
