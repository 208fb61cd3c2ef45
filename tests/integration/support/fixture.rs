//! A test's own database, topics and group.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use series_ingest::config::Config;
use series_ingest::database::schema;
use series_ingest::database::schema::profile::Profile;
use series_ingest::database::schema::{roles, set_profile};
use tokio_postgres::{Client, NoTls};

use super::broker::{Broker, Producer};
use super::data::{Difference, Published, Row};
use super::server::Server;
use super::worker::{CONFIG_FILE, Worker};
use super::{Servers, servers, skip, until};

static NUMBER: AtomicUsize = AtomicUsize::new(0);

pub struct Fixture {
    pub name: String,
    pub brokers: String,
    pub url: String,
    pub series_topic: String,
    pub points_topic: String,
    pub group: String,
    pub partitions: i32,
    pub broker: Broker,
    pub producer: Producer,
    pub client: Client,
    admin: Client,
    config_file: Option<PathBuf>,
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// The URL with another database, and another host and port where they are given.
pub fn url_with(url: &str, database: &str, port: Option<u16>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    let at = if user.is_empty() { "" } else { "@" };
    let host = port.map_or(host.to_owned(), |port| format!("127.0.0.1:{port}"));
    format!("{scheme}://{user}{at}{host}/{database}")
}

/// The profile of the tables of points in tests that do not choose one.
fn profile() -> Profile {
    match std::env::var("SERIES_INGEST_TEST_PROFILE").as_deref() {
        Err(_) | Ok("" | "standard") => Profile::Standard,
        Ok("throughput") => Profile::Throughput,
        Ok(other) => panic!("SERIES_INGEST_TEST_PROFILE={other}: standard or throughput"),
    }
}

/// Returns `true` if tests that do not choose a profile have a table with an operator's trigger, for which the foreign
/// key's trigger has to fire, too.
fn has_trigger() -> bool {
    match std::env::var("SERIES_INGEST_TEST_TRIGGER").as_deref() {
        Err(_) | Ok("" | "off") => false,
        Ok("on") => true,
        Ok(other) => panic!("SERIES_INGEST_TEST_TRIGGER={other}: on or off"),
    }
}

impl Fixture {
    /// A fixture with a migrated database and topics; `None` where there are no servers.
    pub async fn new(test: &str, partitions: i32) -> Option<Self> {
        let fixture = Self::unmigrated(test, partitions).await?;
        fixture.migrate(&[]).await;
        Some(fixture)
    }

    /// The same with this profile, whatever the environment says.
    pub async fn with_profile(test: &str, partitions: i32, profile: Profile) -> Option<Self> {
        let fixture = Self::unmigrated(test, partitions).await?;
        schema::migrate(&fixture.config(&[])).await.unwrap();
        fixture.set_profile(profile).await;
        Some(fixture)
    }

    /// An unmigrated fixture whose extension cannot be added, because a schema of its name is in the way.
    pub async fn without_extension(test: &str, partitions: i32) -> Option<Self> {
        let fixture = Self::unmigrated(test, partitions).await?;
        let sql = "create schema _timescaledb_catalog; grant usage on schema _timescaledb_catalog to public";
        fixture.client.batch_execute(sql).await.unwrap();
        Some(fixture)
    }

    /// A migrated fixture on the community edition of TimescaleDB; `None`, loudly, where TEST_DATABASE_URL_COMMUNITY names none.
    pub async fn on_community(test: &str, partitions: i32, profile: Profile) -> Option<Self> {
        let servers = servers(test)?;
        let Ok(database_url) = std::env::var("TEST_DATABASE_URL_COMMUNITY") else {
            skip(test, "TEST_DATABASE_URL_COMMUNITY is not set");
            return None;
        };
        let fixture = Self::make(test, partitions, Servers { database_url, ..servers }).await;
        // What is compressed there was compressed as it came, and not by the policy.
        let late = ("SERIES_INGEST__DATABASE__COMPRESS_AFTER_S", "3153600000");
        schema::migrate(&fixture.config(&[late])).await.unwrap();
        fixture.set_profile(profile).await;
        Some(fixture)
    }

    /// Makes the tables, with these settings, and the profile and the trigger that the environment names.
    pub async fn migrate(&self, extra: &[(&str, &str)]) {
        schema::migrate(&self.config(extra)).await.unwrap();
        self.set_profile(profile()).await;
        if has_trigger() {
            let sql = "create function nothing() returns trigger language plpgsql as 'begin return null; end';
                       create trigger nothing after insert on time_series_data_points
                       for each statement execute function nothing()";
            self.client.batch_execute(sql).await.unwrap();
        }
    }

    pub async fn set_profile(&self, profile: Profile) {
        set_profile::set(&self.config(&[]).database, profile, false, |_| {}).await.unwrap();
    }

    pub async fn unmigrated(test: &str, partitions: i32) -> Option<Self> {
        Some(Self::make(test, partitions, servers(test)?).await)
    }

    /// A fixture on a database server of the test's own.
    pub async fn on(server: &Server, test: &str, partitions: i32) -> Self {
        let servers = servers(test).expect("the server was started because there are servers");
        let fixture = Self::make(test, partitions, Servers { database_url: server.url(), ..servers }).await;
        fixture.migrate(&[]).await;
        fixture
    }

    /// The same on other brokers, too.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub async fn on_both(server: &Server, brokers: &str, test: &str, partitions: i32) -> Self {
        let servers = Servers { brokers: brokers.to_owned(), database_url: server.url() };
        let fixture = Self::make(test, partitions, servers).await;
        fixture.migrate(&[]).await;
        fixture
    }

    /// A migrated fixture on another broker.
    pub async fn on_broker(brokers: &str, test: &str, partitions: i32) -> Self {
        let servers = servers(test).expect("the broker was started because there are servers");
        let fixture = Self::make(test, partitions, Servers { brokers: brokers.to_owned(), ..servers }).await;
        fixture.migrate(&[]).await;
        fixture
    }

    async fn make(test: &str, partitions: i32, servers: Servers) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("si_{test}_{}_{number}", std::process::id());
        let admin = connect(&servers.database_url).await;
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let url = url_with(&servers.database_url, &name, None);
        let client = connect(&url).await;
        let broker = Broker::new(&servers.brokers);
        let (series_topic, points_topic) = (format!("{name}.series"), format!("{name}.points"));
        broker.create(&series_topic, 1, &[]).await;
        broker.create(&points_topic, partitions, &[]).await;
        Self {
            producer: Producer::new(&servers.brokers),
            brokers: servers.brokers,
            group: name.clone(),
            series_topic,
            points_topic,
            partitions,
            broker,
            client,
            admin,
            url,
            name,
            config_file: None,
        }
    }

    /// Ends every connection to these databases, and lets no new one in.
    async fn close_databases(&self, names: &[&str]) {
        for name in names {
            // Committed first: a session that is ended while others may still connect comes back at once.
            let closed = format!("alter database {name} allow_connections false");
            self.admin.batch_execute(&closed).await.unwrap();
            let sql = format!(
                "do $$ begin
                     perform pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{name}';
                 end $$"
            );
            self.admin.batch_execute(&sql).await.unwrap();
        }
    }

    /// Makes another database, migrated and empty; returns its name.
    pub async fn new_database(&self) -> String {
        let name = format!("{}_new", self.name);
        self.admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let url = url_with(&self.url, &name, None);
        schema::migrate(&self.config(&[("DATABASE_URL", &url)])).await.unwrap();
        name
    }

    /// A connection to another database of this server.
    pub async fn connect_to_database(&self, name: &str) -> Client {
        connect(&url_with(&self.url, name, None)).await
    }

    /// Copies the database, to which no worker may be connected; returns the copy's name.
    pub async fn copy_database(&mut self) -> String {
        let (name, copy) = (self.name.as_str(), format!("{}_copy", self.name));
        self.close_databases(&[name]).await;
        let copied = format!("create database {copy} template {name}");
        until(30, "no session is left", async || self.admin.batch_execute(&copied).await.is_ok()).await;
        self.admin.batch_execute(&format!("alter database {name} allow_connections true")).await.unwrap();
        self.client = connect(&self.url).await;
        copy
    }

    /// Puts another database in the place of this one, which is dropped. A statement that runs meanwhile fails, and an idle
    /// worker meets nothing of it.
    pub async fn switch_database_to(&mut self, other: &str) {
        let (name, gone) = (self.name.as_str(), format!("{}_gone", self.name));
        self.close_databases(&[name, other]).await;
        // A session that was being started when connections were closed ends a moment later.
        let renamed = format!("alter database {name} rename to {gone}");
        until(30, "no session is left", async || self.admin.batch_execute(&renamed).await.is_ok()).await;
        for sql in [
            format!("alter database {other} rename to {name}"),
            format!("alter database {name} allow_connections true"),
            format!("drop database {gone} with (force)"),
        ] {
            self.admin.batch_execute(&sql).await.unwrap();
        }
        self.client = connect(&self.url).await;
    }

    /// Connects to the database again: its server was away, or another one has it now.
    pub async fn connect_to(&mut self, server: &Server) {
        self.url = url_with(&server.url(), &self.name, None);
        self.client = connect(&self.url).await;
        self.admin = connect(&server.url()).await;
    }

    /// The program's configuration for this fixture; retries are quick, and a lost member is noticed soon.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("DATABASE_URL", self.url.as_str()),
            ("KAFKA_BROKERS", &self.brokers),
            ("SERIES_INGEST__KAFKA__GROUP_ID", &self.group),
            ("SERIES_INGEST__KAFKA__SERIES_TOPIC", &self.series_topic),
            ("SERIES_INGEST__KAFKA__POINTS_TOPIC", &self.points_topic),
            ("SERIES_INGEST__KAFKA__SESSION_TIMEOUT_MS", "3000"),
            ("SERIES_INGEST__SHUTDOWN__DRAIN_TIMEOUT_MS", "2500"),
            ("SERIES_INGEST__DATABASE__RETRY_MAX_MS", "500"),
            ("SERIES_INGEST__HTTP__LISTEN", ""),
            ("SERIES_INGEST__JOURNAL__ENABLED", "false"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain(self.config_file.iter().map(|path| (CONFIG_FILE.to_owned(), path.display().to_string())))
        .collect()
    }

    /// Sets the text of the file that all of the fixture's commands get by `--config` from now on.
    pub fn set_config(&mut self, text: &str) {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.toml", self.name));
        std::fs::write(&path, text).unwrap();
        self.config_file = Some(path);
    }

    /// The configuration of this fixture, with other settings over it: names of the environment.
    pub fn config(&self, extra: &[(&str, &str)]) -> Config {
        let extra = extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut environment: Vec<(String, String)> = self.environment();
        environment.retain(|(name, _)| !extra.clone().any(|(other, _)| other == *name));
        let environment = environment.into_iter().chain(extra).map(|(n, v)| (OsString::from(n), OsString::from(v)));
        let environment = environment.filter(|(name, _)| name != CONFIG_FILE);
        Config::load(self.config_file.as_deref(), environment).unwrap()
    }

    pub fn worker(&self, extra: &[(&str, &str)]) -> Worker {
        Worker::start(&self.name, &self.environment(), extra)
    }

    /// A URL of this fixture's database by another port of loopback: a proxy's.
    pub fn url_by(&self, port: u16) -> String {
        url_with(&self.url, &self.name, Some(port))
    }

    /// The server's host and port.
    pub fn server(&self) -> String {
        let (_, rest) = self.url.split_once("://").unwrap();
        let (authority, _) = rest.split_once('/').unwrap();
        authority.rsplit('@').next().unwrap().to_owned()
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// From now on the server waits this many seconds for each row of points.
    pub async fn slow_down_rows(&self, seconds: f64) {
        let slow = format!(
            "create function slow_down() returns trigger language plpgsql as $$
             begin
                 perform pg_sleep({seconds});
                 return null;
             end $$;
             create trigger slow_down after insert on time_series_data_points
                 for each row execute function slow_down()"
        );
        self.client.batch_execute(&slow).await.unwrap();
    }

    /// The number of sessions that wait for a lock that another one has.
    pub async fn waiting_for_locks(&self) -> i64 {
        self.count(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .await
    }

    /// A message with one point of the series' column `c`, to the points' first partition.
    pub fn send_point(&self, series: &str, seconds: i64) {
        let payload = format!(r#"{{"time_series_id":"{series}","timestamps":[{seconds}],"columns":{{"c":[1]}}}}"#);
        self.producer.send(&self.points_topic, 0, series, Some(payload.as_bytes()));
    }

    /// Publishes this many messages with this many timestamps each, over all partitions.
    pub fn publish(&self, published: &mut Published, messages: usize, timestamps: usize) {
        for number in 0..messages {
            let partition = i32::try_from(number).unwrap() % self.partitions;
            self.send_batch(published, partition, timestamps);
        }
        self.producer.flush();
    }

    /// The same with messages of this many series.
    pub fn publish_series(&self, published: &mut Published, messages: usize, series: usize, timestamps: usize) {
        for number in 0..messages {
            let id = format!("s{}", number % series);
            let partition = i32::try_from(number).unwrap() % self.partitions;
            let payload = published.batch(&id, timestamps);
            self.producer.send(&self.points_topic, partition, &id, Some(payload.as_bytes()));
        }
        self.producer.flush();
    }

    /// Publishes to one partition.
    pub fn publish_to(&self, published: &mut Published, partition: i32, messages: usize, timestamps: usize) {
        (0..messages).for_each(|_| self.send_batch(published, partition, timestamps));
        self.producer.flush();
    }

    fn send_batch(&self, published: &mut Published, partition: i32, timestamps: usize) {
        let payload = published.batch("s", timestamps);
        self.producer.send(&self.points_topic, partition, "s", Some(payload.as_bytes()));
    }

    pub async fn count_points(&self) -> i64 {
        self.count("select count(*) from time_series_data_points").await
    }

    pub async fn stored(&self) -> Vec<Row> {
        let sql = "select time_series_id, column_name, (extract(epoch from \"timestamp\") * 1000000)::bigint, value
                   from time_series_data_points";
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), super::data::bits(row.get(3)))).collect()
    }

    pub async fn difference(&self, published: &Published) -> Difference {
        Difference::between(published.rows.clone(), self.stored().await)
    }

    /// Waits until each partition's progress has reached the end of its log, and no island lies above it.
    pub async fn until_applied(&self, seconds: u64) {
        let ends = self.broker.ends(&self.points_topic, self.partitions);
        until(seconds, &format!("all of {ends:?} applied"), async || self.next_offsets().await == ends).await;
        assert_eq!(
            self.count("select count(*) from ingest_progress where ahead <> '{}'").await,
            0,
            "no island is left"
        );
    }

    /// Waits until a worker that journals has read everything that Kafka has, and holds nothing of it in memory any more.
    pub async fn until_journaled(&self, worker: &Worker) {
        self.until_journaled_within(60, worker).await;
    }

    /// The same with another deadline, in seconds.
    pub async fn until_journaled_within(&self, seconds: u64, worker: &Worker) {
        let ends = self.broker.ends(&self.points_topic, self.partitions);
        until(seconds, "everything is journaled", async || {
            let Some((200, status)) = worker.get("/status") else { return false };
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let partitions = status["partitions"].as_array().unwrap();
            let is_read = |number: usize, end: i64| {
                partitions.iter().any(|partition| {
                    partition["topic"] == self.points_topic.as_str()
                        && partition["partition"] == number
                        && partition["position"] == end
                })
            };
            status["buffered_bytes"] == 0 && ends.iter().enumerate().all(|(number, end)| is_read(number, *end))
        })
        .await;
    }

    /// The next offset of each partition of the newest source of the points' topic; 0 where there is none.
    pub async fn next_offsets(&self) -> Vec<i64> {
        let sql = "select partition, next_offset from ingest_progress
                   where source_id = (select max(id) from ingest_source where topic = $1)";
        let mut offsets = vec![0; usize::try_from(self.partitions).unwrap()];
        for row in self.client.query(sql, &[&self.points_topic]).await.unwrap() {
            offsets[usize::try_from(row.get::<_, i32>(0)).unwrap()] = row.get(1);
        }
        offsets
    }

    /// That the table holds what was published, exactly, and no dead letter or gap was made on the way.
    pub async fn assert_exact(&self, published: &Published) {
        assert_eq!(self.difference(published).await, Difference::default());
        assert_eq!(self.count("select count(*) from ingest_dead_letter").await, 0, "no dead letters");
        assert_eq!(self.count("select count(*) from ingest_gap where filled_at is null").await, 0, "no gaps");
    }

    /// Has Kafka delete all points' messages that it has now, as retention does.
    pub async fn delete_records(&self) {
        for partition in 0..self.partitions {
            let end = self.broker.end(&self.points_topic, partition);
            self.broker.delete_records(&self.points_topic, partition, end).await;
        }
    }

    /// Creates a role with these options and the rights of a worker; returns its name, and the URL with which it connects.
    pub async fn worker_role(&self, options: &str) -> (String, String) {
        let role = format!("{}_worker", self.name);
        self.client.batch_execute(&format!("create role {role} login {options}")).await.unwrap();
        roles::grant(&self.config(&[]), &role, roles::Purpose::Worker).await.unwrap();
        let url = self.url.replacen("postgres@", &format!("{role}@"), 1);
        (role, url)
    }

    /// As [`Self::remove`], and removes a role that has rights in the database only.
    pub async fn remove_with_role(self, role: &str) {
        let admin = connect(&url_with(&self.url, "postgres", None)).await;
        self.remove().await;
        admin.batch_execute(&format!("drop role {role}")).await.unwrap();
    }

    /// Removes the database and the topics.
    pub async fn remove(self) {
        drop(self.client);
        self.admin.batch_execute(&format!("drop database {} with (force)", self.name)).await.unwrap();
        self.broker.delete(&[&self.series_topic, &self.points_topic]).await;
    }
}
