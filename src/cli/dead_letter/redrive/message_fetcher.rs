//! Reads messages from Kafka again whose rows in the database are truncated.

use std::sync::Arc;

use crate::config::Config;
use crate::database::dead_letters::Letter;
use crate::kafka::message_fetcher::{FullMessage, MessageFetcher};

/// Reads the whole messages of truncated letters from Kafka.
pub(super) struct Wholes {
    config: Arc<Config>,
    fetcher: Option<Arc<MessageFetcher>>,
    /// `true` if the brokers did not answer: they are asked only once, because each request takes its whole timeout.
    unreachable: bool,
}

impl Wholes {
    pub(super) fn new(config: &Arc<Config>) -> Self {
        Self { config: Arc::clone(config), fetcher: None, unreachable: false }
    }

    /// Reads the letter's message from Kafka.
    ///
    /// # Errors
    /// If Kafka does not answer or no longer has the message.
    pub(super) async fn read(&mut self, letter: &Letter) -> Result<FullMessage, String> {
        if letter.source.is_file() {
            return Err("it is a row of a file that was imported, and its file has all of it".to_owned());
        }
        if self.unreachable {
            return Err("Kafka does not answer".to_owned());
        }
        let fetcher = match &self.fetcher {
            Some(fetcher) => Arc::clone(fetcher),
            None => {
                let new = MessageFetcher::new(&self.config.kafka).map_err(|failure| failure.to_string())?;
                Arc::clone(self.fetcher.insert(Arc::new(new)))
            }
        };
        let (source, partition, offset) = (Arc::clone(&letter.source), letter.message.partition, letter.message.offset);
        let read = tokio::task::spawn_blocking(move || fetcher.read(&source, partition, offset)).await;
        match read.map_err(|failure| failure.to_string())? {
            Ok(Some(whole)) => Ok(whole),
            Ok(None) => Err("Kafka no longer has the message, or its topic or cluster is another one now".to_owned()),
            Err(failure) => {
                self.unreachable = true;
                Err(failure.to_string())
            }
        }
    }
}
