//! A bed on a database server of the test's own, and a folder for the journals of its workers.

use std::path::PathBuf;

use super::bed::{Bed, url_with};
use super::data::Published;
use super::outage::Outage;
use super::server::Server;
use super::until;
use super::worker::Worker;

/// The role as which workers connect: they own nothing.
pub const ROLE: &str = "worker";

/// Room for what is published in a test with a disk that gets full.
const SMALL_DISK_MIB: u32 = 1024;

pub struct Ground {
    pub server: Server,
    pub bed: Bed,
    folder: tempfile::TempDir,
}

impl Ground {
    /// `None`, loudly, where a test can have no server of its own.
    pub async fn new(test: &str, partitions: i32) -> Option<Self> {
        Some(Self::on(Server::start(test).await?, test, partitions).await)
    }

    /// One for this kind of outage.
    pub async fn for_outage(test: &str, partitions: i32, outage: Outage) -> Option<Self> {
        if outage != Outage::DiskFull {
            return Self::new(test, partitions).await;
        }
        let server = Server::start_with_small_disk(test, SMALL_DISK_MIB).await?;
        let ground = Self::on(server, test, partitions).await;
        let disk = ground.server.small_disk().await;
        ground.bed.client.batch_execute(&format!("create tablespace small location '{disk}'")).await.unwrap();
        let move_there = "grant create on tablespace small to public;
             select attach_tablespace('small', 'time_series_data_points');
             alter table sign_of_life set tablespace small";
        ground.bed.client.batch_execute(move_there).await.unwrap();
        Some(ground)
    }

    async fn on(server: Server, test: &str, partitions: i32) -> Self {
        let bed = Bed::on(&server, test, partitions).await;
        let role = format!(
            "create role {ROLE} login;
             grant select, insert, update, delete on all tables in schema public to {ROLE};
             grant usage on all sequences in schema public to {ROLE};
             grant execute on all functions in schema public to {ROLE};
             create table sign_of_life (text text not null);
             alter table sign_of_life alter text set storage external;
             grant insert on sign_of_life to {ROLE}"
        );
        bed.client.batch_execute(&role).await.unwrap();
        Self { server, bed, folder: tempfile::tempdir().unwrap() }
    }

    /// The database as workers are told of it.
    pub fn url(&self) -> String {
        let url = format!("postgresql://{ROLE}@{}/", self.server.address());
        url_with(&url, &self.bed.name, None)
    }

    pub fn publish(&self, published: &mut Published, messages: i32) {
        for number in 0..messages {
            let payload = published.batch("s", 25);
            self.bed.producer.send(&self.bed.points_topic, number % self.bed.partitions, "s", Some(payload.as_bytes()));
        }
        self.bed.producer.flush();
    }

    /// Waits until this worker, while the database is away, has journaled all that Kafka has.
    pub async fn until_journaled(&self, worker: &Worker) {
        worker.until_mode("journaling").await;
        let bed = &self.bed;
        let ends = bed.broker.ends(&bed.points_topic, bed.partitions);
        until(60, "everything is journaled", async || {
            let Some((200, status)) = worker.get("/status") else { return false };
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let partitions = status["partitions"].as_array().unwrap();
            let read = partitions.iter().filter(|one| {
                one["topic"] == bed.points_topic.as_str()
                    && one["position"] == ends[one["partition"].as_u64().unwrap() as usize]
            });
            // What is read and not journaled yet is held in memory.
            read.count() == ends.len() && status["buffered_bytes"] == 0
        })
        .await;
    }

    pub fn journal(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A worker with a journal of this name, and otherwise the defaults that outages depend on.
    pub fn worker(&self, journal: &str, extra: &[(&str, &str)]) -> Worker {
        let (url, directory) = (self.url(), self.journal(journal).to_str().unwrap().to_owned());
        let mut settings = vec![
            ("DATABASE_URL", url.as_str()),
            ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
            ("SERIES_INGEST__JOURNAL__DIRECTORY", &directory),
            ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
            ("SERIES_INGEST__DATABASE__RETRY_MAX_MS", "1000"),
        ];
        settings.extend_from_slice(extra);
        self.bed.worker(&settings)
    }
}
