//! A fixture on a database server of the test's own, and a folder for the journals of its workers.

use std::path::PathBuf;

use super::fixture::{Fixture, connect, url_with};
use super::outage::Outage;
use super::server::Server;
use super::worker::Worker;

/// The role as which workers connect: they own nothing.
pub const ROLE: &str = "worker";

/// Room for what is published in a test with a disk that gets full.
const SMALL_DISK_MIB: u32 = 1024;

pub struct FixtureWithServer {
    pub server: Server,
    pub fixture: Fixture,
    folder: tempfile::TempDir,
    /// The password of the workers' role; none if the server trusts it.
    password: Option<String>,
}

impl FixtureWithServer {
    /// `None`, loudly, if a test cannot have its own server.
    pub async fn new(test: &str, partitions: i32) -> Option<Self> {
        let server = Server::start(test).await?;
        let fixture = Fixture::on(&server, test, partitions).await;
        Some(Self::on(server, fixture).await)
    }

    /// One for this kind of outage.
    pub async fn for_outage(test: &str, partitions: i32, outage: Outage) -> Option<Self> {
        if outage != Outage::DiskFull {
            return Self::new(test, partitions).await;
        }
        let server = Server::start_with_small_disk(test, SMALL_DISK_MIB).await?;
        let fixture = Fixture::on(&server, test, partitions).await;
        let ground = Self::on(server, fixture).await;
        ground.move_to_small_disk().await;
        Some(ground)
    }

    /// One on these brokers, whose workers log in by a password in a file; with its points on a small disk if that is wanted.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub async fn on_brokers(brokers: &str, test: &str, partitions: i32, has_small_disk: bool) -> Option<Self> {
        let server = if has_small_disk {
            Server::start_with_small_disk(test, SMALL_DISK_MIB).await?
        } else {
            Server::start(test).await?
        };
        let fixture = Fixture::on_both(&server, brokers, test, partitions).await;
        let mut ground = Self::on(server, fixture).await;
        if has_small_disk {
            ground.move_to_small_disk().await;
        }
        ground.demand_password().await;
        Some(ground)
    }

    async fn move_to_small_disk(&self) {
        let disk = self.server.small_disk().await;
        self.fixture.client.batch_execute(&format!("create tablespace small location '{disk}'")).await.unwrap();
        let move_there = "grant create on tablespace small to public;
             select attach_tablespace('small', 'time_series_data_points');
             alter table sign_of_life set tablespace small";
        self.fixture.client.batch_execute(move_there).await.unwrap();
    }

    /// Has the server ask the workers' role for a password; everybody else it trusts as before.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    async fn demand_password(&mut self) {
        let sql = format!(
            "do $$ begin execute format($f$copy (values
                 ('host all {ROLE} 127.0.0.1/32 scram-sha-256'), ('local all all trust'), ('host all all 127.0.0.1/32 trust'))
                 to %L$f$, current_setting('hba_file')); end $$"
        );
        self.fixture.client.batch_execute(&sql).await.unwrap();
        self.fixture.client.batch_execute("select pg_reload_conf()").await.unwrap();
        self.password = Some("first".to_owned());
        self.set_password().await;
        self.write_password();
    }

    /// Gives the role the password that it should have: a server that was restored has an earlier one.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub async fn set_password(&self) {
        let Some(password) = &self.password else { return };
        let admin = connect(&self.server.url()).await;
        admin.batch_execute(&format!("alter role {ROLE} password '{password}'")).await.unwrap();
    }

    /// Gives the role another password, and ends its sessions; what is in the file comes later.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub async fn rotate_password(&mut self, password: &str) {
        self.password = Some(password.to_owned());
        self.set_password().await;
        let admin = connect(&self.server.url()).await;
        let sql = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = '{ROLE}'");
        admin.batch_execute(&sql).await.unwrap();
    }

    /// Puts the password into the file, as a mounted secret changes: at once as a whole.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub fn write_password(&self) {
        let (file, new) = (self.folder.path().join("password"), self.folder.path().join("password.new"));
        std::fs::write(&new, self.password.as_deref().unwrap_or_default()).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    async fn on(server: Server, fixture: Fixture) -> Self {
        let role = format!(
            "create role {ROLE} login;
             grant select, insert, update, delete on all tables in schema public to {ROLE};
             grant usage on all sequences in schema public to {ROLE};
             grant execute on all functions in schema public to {ROLE};
             create table sign_of_life (text text not null);
             alter table sign_of_life alter text set storage external;
             grant insert on sign_of_life to {ROLE}"
        );
        fixture.client.batch_execute(&role).await.unwrap();
        Self { server, fixture, folder: tempfile::tempdir().unwrap(), password: None }
    }

    /// The database's URL as workers get it.
    pub fn url(&self) -> String {
        let password = self.password.as_ref().map_or_else(String::new, |password| format!(":{password}"));
        let url = format!("postgresql://{ROLE}{password}@{}/", self.server.address());
        url_with(&url, &self.fixture.name, None)
    }

    /// The database as an administrator reaches it.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub fn database_url(&self) -> String {
        url_with(&self.server.url(), &self.fixture.name, None)
    }

    pub fn journal(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A worker with a journal of this name, and otherwise the defaults that outages depend on.
    pub fn worker(&self, journal: &str, extra: &[(&str, &str)]) -> Worker {
        let (mut url, directory) = (self.url(), self.journal(journal).to_str().unwrap().to_owned());
        let file = self.folder.path().join("password").to_str().unwrap().to_owned();
        if let Some(password) = &self.password {
            url = url.replace(&format!(":{password}@"), "@");
        }
        let mut settings = vec![
            ("DATABASE_URL", url.as_str()),
            ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
            ("SERIES_INGEST__JOURNAL__DIRECTORY", &directory),
            ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
            ("SERIES_INGEST__DATABASE__RETRY_MAX_MS", "1000"),
        ];
        if self.password.is_some() {
            settings.push(("SERIES_INGEST__DATABASE__PASSWORD_FILE", &file));
        }
        settings.extend_from_slice(extra);
        self.fixture.worker(&settings)
    }
}
