//! Ready means that signs are there: what is missing is the reason, and each fault is named.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::own_broker::{NOWHERE, OwnBroker};
use crate::support::proxy::Proxy;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

const SESSION: &str = "SERIES_INGEST__KAFKA__SESSION_TIMEOUT_MS";
const DRAIN: &str = "SERIES_INGEST__SHUTDOWN__DRAIN_TIMEOUT_MS";

async fn until_ready(worker: &Worker) {
    worker.until_ready().await;
    assert_eq!(worker.metric("series_ingest_ready"), Some(1.0));
}

/// Waits until the worker is not ready and says all of this.
async fn until_not_ready(worker: &Worker, seconds: u64, says: &[&str]) {
    until(seconds, &format!("not ready: {says:?}"), async || {
        worker.get("/readyz").is_some_and(|(code, why)| code == 503 && says.iter().all(|part| why.contains(part)))
    })
    .await;
    assert_eq!(worker.metric("series_ingest_ready"), Some(0.0));
}

fn status(worker: &Worker) -> serde_json::Value {
    serde_json::from_str(&worker.get("/status").unwrap().1).unwrap()
}

/// The settings of a worker with a journal in this folder.
fn journal(folder: &Path) -> [(&'static str, String); 4] {
    [
        ("SERIES_INGEST__JOURNAL__ENABLED", "true".to_owned()),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", folder.join("journal").to_str().unwrap().to_owned()),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0".to_owned()),
        ("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_named_the_lag_stays_and_the_worker_is_ready_again_by_itself() {
    let Some(mut broker) = OwnBroker::start("brokers_away", &["group.min.session.timeout.ms=1000"]).await else {
        return;
    };
    let fixture = Fixture::on_broker(&broker.address, "brokers_away", 1).await;
    let proxy = Proxy::start(&fixture.server()).await;
    let url = fixture.url_by(proxy.port);
    let folder = tempfile::tempdir().unwrap();
    let mut settings: Vec<(&str, String)> = journal(folder.path()).to_vec();
    settings.push(("DATABASE_URL", url));
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let worker = fixture.worker(&settings);
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 10);
    fixture.until_applied(60).await;
    until_ready(&worker).await;
    // The gauge follows the page with the next look at the signs.
    until(10, "kafka_up is 1.0", async || worker.metric("series_ingest_kafka_up") == Some(1.0)).await;
    let signs = &status(&worker)["signs"];
    for sign in ["brokers", "group", "partitions", "logs", "database"] {
        assert_eq!(signs[sign]["ok"], true, "{signs}");
        assert!(signs[sign]["age_seconds"].is_u64(), "{sign} has its age: {signs}");
    }

    broker.kill();
    // Documented: within 15 s.
    until_not_ready(&worker, 40, &["brokers: ", &broker.address, " s"]).await;
    // The gauge follows the page with the next look at the signs.
    until(10, "kafka_up is 0.0", async || worker.metric("series_ingest_kafka_up") == Some(0.0)).await;
    // The client gives its partitions up when its session is over.
    until(60, "the partitions are lost", async || worker.log().contains("lost=true")).await;
    let labels = format!("{{input=\"points\",topic=\"{}\",partition=\"0\"}}", fixture.points_topic);
    let seconds = || worker.metric(&format!("series_ingest_kafka_lag_seconds{labels}"));
    assert_eq!(worker.metric(&format!("series_ingest_kafka_lag_messages{labels}")), Some(0.0), "its last value");
    let first = seconds().expect("the series is still there");
    until(20, "the lag grows", async || seconds().unwrap() > first + 2.0).await;
    assert_eq!(worker.get("/livez").unwrap().0, 200);

    // Both servers are away: neither is blamed for the other, and nothing else is.
    proxy.refuse(true);
    until(60, "it journals", async || worker.is_mode("journaling")).await;
    let (_, why) = worker.get("/readyz").unwrap();
    assert!(why.contains(&broker.address) && !why.contains("journal"), "{why}");
    assert_eq!(status(&worker)["database"]["up"], false);
    let without_journal = fixture.worker(&[settings[4]]);
    until_not_ready(&without_journal, 40, &["brokers: ", &broker.address, "database: "]).await;
    drop(without_journal);
    proxy.refuse(false);

    broker.start_again().await;
    until_ready(&worker).await;
    // The gauge follows the page with the next look at the signs.
    until(10, "kafka_up is 1.0", async || worker.metric("series_ingest_kafka_up") == Some(1.0)).await;
    fixture.publish(&mut published, 20, 10);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    until(20, "no lag", async || seconds() == Some(0.0)).await;
    drop(worker);
    fixture.remove().await;
}

/// A member of a group that uses this assignor, and polls until it is dropped.
struct Member(Arc<AtomicBool>);

impl Member {
    async fn join(fixture: &Fixture, assignor: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &fixture.brokers)
            .set("group.id", &fixture.group)
            .set("session.timeout.ms", "6000")
            .set("partition.assignment.strategy", assignor)
            .create()
            .unwrap();
        consumer.subscribe(&[&fixture.points_topic]).unwrap();
        let (ended, is_member) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (until_ended, joined) = (Arc::clone(&ended), Arc::clone(&is_member));
        std::thread::spawn(move || {
            while !until_ended.load(Ordering::SeqCst) {
                drop(consumer.poll(Duration::from_millis(50)));
                // A member without partitions has no assignment; its id is known when it is one.
                let is_member = consumer.fetch_group_list(None, Duration::from_secs(5)).is_ok_and(|groups| {
                    groups.groups().iter().any(|group| group.state() == "Stable" && !group.members().is_empty())
                });
                joined.fetch_or(is_member, Ordering::SeqCst);
            }
        });
        until(60, "the member has joined", async || is_member.load(Ordering::SeqCst)).await;
        Self(ended)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_does_not_let_the_worker_join_is_named_by_readyz_the_log_and_check() {
    let settings = ["group.min.session.timeout.ms=6000", "group.max.size=2"];
    let Some(broker) = OwnBroker::start("group_refuses", &settings).await else { return };
    let fixture = Fixture::on_broker(&broker.address, "group_refuses", 1).await;
    let environment = |extra: &[(&str, &str)]| {
        let mut all = fixture.environment();
        all.retain(|(name, _)| !extra.iter().any(|(other, _)| other == name));
        all.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    };
    let refused = async |worker: &Worker, says: &str| {
        until_not_ready(worker, 60, &["group: ", says, " s"]).await;
        until(20, "the log names it", async || worker.log().contains(says)).await;
        let times = worker.log().lines().filter(|line| line.contains("group.") && line.contains(says)).count();
        assert!(times <= 2, "{times} lines: {}", worker.log());
    };

    let short = [(SESSION, "3000")];
    let worker = fixture.worker(&short);
    refused(&worker, "group.min.session.timeout.ms").await;
    drop(worker);
    let output = run(&environment(&short), &["check"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("kafka.session_timeout_ms") && text(&output).contains("6000"), "{}", text(&output));

    let long = [(SESSION, "6000")];
    let member = Member::join(&fixture, "range").await;
    let worker = fixture.worker(&long);
    refused(&worker, "another partition assignor").await;
    let output = run(&environment(&long), &["check"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("kafka.group_id") && text(&output).contains("range"), "{}", text(&output));
    // It joins as soon as it may.
    drop(member);
    until_ready(&worker).await;
    let output = run(&environment(&long), &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));

    // Two are let in. Which two is open while the group rebalances.
    let workers = [worker, fixture.worker(&long), fixture.worker(&long)];
    until(60, "one of three is refused", async || {
        let is_refused = |worker: &Worker| {
            worker.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains("group.max.size"))
        };
        workers.iter().any(is_refused)
    })
    .await;
    drop(workers);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_brokers_advertise_and_nobody_can_reach_is_named_and_so_is_sasl_that_a_listener_does_not_know() {
    let Some(broker) = OwnBroker::start("advertised", &["group.min.session.timeout.ms=1000"]).await else { return };
    let fixture = Fixture::on_broker(&broker.address, "advertised", 1).await;
    let misadvertised = [("KAFKA_BROKERS", broker.misadvertised.as_str())];
    let with = |extra: &[(&str, &str)]| {
        let mut all = fixture.environment();
        all.retain(|(name, _)| !extra.iter().any(|(other, _)| other == name));
        all.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    };
    let output = run(&with(&misadvertised), &["check"]);
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    for part in [NOWHERE, "advertised.listeners", "kafka.brokers"] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
    assert!(!text(&output).contains("Create it"), "{}", text(&output));
    let worker = fixture.worker(&misadvertised);
    until_not_ready(&worker, 60, &["brokers: ", NOWHERE, "advertised.listeners"]).await;
    drop(worker);

    let sasl = [
        ("SERIES_INGEST__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_USERNAME", "user"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_PASSWORD", "password"),
    ];
    let output = run(&with(&sasl), &["check"]);
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    for part in ["kafka.properties", "takes no SASL", "security.protocol"] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_speaks_sasl_to_a_listener_without_it_is_not_ready_and_logs_it_once() {
    let Some(fixture) = Fixture::new("no_sasl", 1).await else { return };
    let worker = fixture.worker(&[
        ("SERIES_INGEST__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_USERNAME", "user"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_PASSWORD", "password"),
        // At this level each attempt to connect is a line.
        ("SERIES_INGEST__LOG__FILTER", "info,series_ingest::kafka::auth=debug"),
    ]);
    let says = "takes no SASL";
    until_not_ready(&worker, 60, &["kafka: ", says, "security.protocol"]).await;
    let lines = |level: &str, says: &str| {
        worker.log().lines().filter(|line| line.contains(level) && line.contains(says)).count()
    };
    until(90, "it has tried again and again", async || lines(" DEBUG ", "auth: librdkafka facility=\"FAIL\"") >= 3)
        .await;
    let log = worker.log();
    assert_eq!(lines(" WARN ", "Kafka does not let this client do its work"), 1, "{log}");
    // The other one says that the worker is not ready for it.
    assert_eq!(lines(" WARN ", says), 2, "{log}");
    let [warnings, errors] = [" WARN ", " ERROR "].map(|level| lines(level, ""));
    assert!(warnings <= 4 && errors == 0, "{warnings} warnings, {errors} errors: {log}");
    until_not_ready(&worker, 10, &["kafka: ", says]).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_waits_for_the_place_of_a_dead_member_is_not_ready_and_says_so_and_members_without_partitions_are_ready()
 {
    let Some(fixture) = Fixture::new("waits_for_group", 1).await else { return };
    let session = [(SESSION, "8000"), (DRAIN, "2500")];
    let mut first = fixture.worker(&session);
    until_ready(&first).await;
    first.kill();
    let second = fixture.worker(&session);
    until_not_ready(&second, 20, &["group: ", &fixture.group, "8 s"]).await;
    until_ready(&second).await;
    assert!(second.log().contains(&fixture.group), "a line says what it waits for: {}", second.log());
    // Two partitions, one of each topic: the third worker has none, and rightly so.
    let others = [fixture.worker(&session), fixture.worker(&session)];
    for worker in &others {
        until_ready(worker).await;
        assert_eq!(status(worker)["signs"]["group"]["ok"], true);
    }
    until(60, "one of three has no partitions", async || {
        let counts = [&second, &others[0], &others[1]].map(|one| status(one)["partitions"].as_array().unwrap().len());
        counts.iter().sum::<usize>() == 2 && counts.contains(&0)
    })
    .await;
    for worker in [&second, &others[0], &others[1]] {
        until_ready(worker).await;
    }
    drop((second, others));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_a_reason() {
    let Some(fixture) = Fixture::new("missing_topic", 1).await else { return };
    let topic = format!("{}.later", fixture.name);
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__POINTS_TOPIC", &topic)]);
    until_not_ready(&worker, 60, &["partitions: ", &topic]).await;
    fixture.broker.create(&topic, 1, &[]).await;
    until_ready(&worker).await;
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_waits_for_a_lock_to_migrate_says_so() {
    let Some(fixture) = Fixture::unmigrated("migrate_lock", 1).await else { return };
    let migrate_on_start = [("SERIES_INGEST__DATABASE__MIGRATE_ON_START", "true")];
    let other = connect(&format!("{}?application_name=forgotten", fixture.url)).await;
    let pid: i32 = other.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let holder = format!("process {pid} (forgotten, ");
    // A lock that is not a migration's.
    other.batch_execute("begin; create table ingest_schema_history (version integer)").await.unwrap();
    let worker = fixture.worker(&migrate_on_start);
    until_not_ready(&worker, 30, &["schema: ", "waiting for a lock of ", &holder, "idle in transaction"]).await;
    assert_eq!(worker.get("/livez").unwrap().0, 200);
    other.batch_execute("rollback").await.unwrap();
    until_ready(&worker).await;
    drop(worker);
    // The lock of another `migrate`.
    other.batch_execute(&format!("select pg_advisory_lock({})", 0x7365_7269_6573_2d69_i64)).await.unwrap();
    let worker = fixture.worker(&migrate_on_start);
    until_not_ready(&worker, 30, &["schema: ", "another migration", &holder, " s"]).await;
    assert_eq!(worker.get("/livez").unwrap().0, 200);
    other.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
    until_ready(&worker).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_nothing_is_stalled_and_the_last_error_is_over_and_the_server_is_asked_again() {
    let Some(away) = FixtureWithProxy::new("after_outage", 2).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[("SERIES_INGEST__HTTP__STALL_MS", "2000")]);
    until_ready(&worker).await;
    let database = || status(&worker)["database"].clone();
    until(20, "the server is known", async || database()["timescaledb"].is_string()).await;
    away.proxy.refuse(true);
    away.publish(&mut published, 200);
    worker.until_mode("journaling").await;
    let broken = database();
    let at = broken["last_error_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(broken["last_error"].is_string() && at <= jiff::Timestamp::now(), "{broken}");
    // The server that comes back is another one: without TimescaleDB.
    away.fixture.client.batch_execute("drop extension timescaledb cascade").await.unwrap();
    // Longer than the time after which a standstill is a reason.
    let labels = format!(
        "series_ingest_kafka_lag_seconds{{input=\"points\",topic=\"{}\",partition=\"0\"}}",
        away.fixture.points_topic
    );
    until(30, "what waits is old", async || worker.metric(&labels).is_some_and(|seconds| seconds > 5.0)).await;
    away.proxy.refuse(false);
    until(60, "it streams again", async || {
        let (_, why) = worker.get("/readyz").unwrap();
        assert!(!why.contains("stalled"), "{why}");
        worker.is_mode("streaming")
    })
    .await;
    until(20, "the last error is over", async || database()["last_error"].is_null()).await;
    assert!(database()["last_error_at"].is_null());
    until(20, "the other server is shown", async || database()["timescaledb"].is_null()).await;
    away.fixture.until_applied(60).await;
    until_ready(&worker).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn record_times_that_cannot_be_true_make_no_lag() {
    let Some(mut away) = FixtureWithProxy::new("record_times", 1).await else { return };
    // Retention goes by these times, too: it would delete what is of 1970.
    let topic = format!("{}.kept", away.fixture.name);
    away.fixture.broker.create(&topic, 1, &[("retention.ms", "-1")]).await;
    away.fixture.broker.delete(&[&away.fixture.points_topic]).await;
    away.fixture.points_topic = topic;
    let worker = away.worker("journal", &[("SERIES_INGEST__JOURNAL__ENABLED", "false")]);
    until_ready(&worker).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_s = i64::try_from(now.as_secs()).unwrap();
    let labels = format!("{{input=\"points\",topic=\"{}\",partition=\"0\"}}", away.fixture.points_topic);
    let seconds = || worker.metric(&format!("series_ingest_kafka_lag_seconds{labels}"));
    let mut published = Published::default();
    // Seconds, as milliseconds; half an hour in the future, more than which brokers refuse; a year in which Kafka's records had
    // no time.
    for time_ms in [now_s, (now_s + 1800) * 1000, 1_325_376_000_000] {
        away.proxy.refuse(true);
        let payload = published.batch("s", 5);
        away.fixture.producer.send_at(&away.fixture.points_topic, 0, "s", Some(payload.as_bytes()), time_ms);
        away.fixture.producer.flush();
        until(30, "the lag grows", async || seconds().is_some_and(|seconds| seconds > 0.5)).await;
        assert!(seconds().unwrap() < 600.0, "{time_ms}: {:?}", seconds());
        away.proxy.refuse(false);
        away.fixture.until_applied(60).await;
    }
    let age = worker.metric("series_ingest_produce_to_commit_seconds_sum").unwrap();
    assert!(age < 600.0, "{age}");
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}
