//! Kafka by TLS and SASL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{properties, until_not_ready, with};
use crate::support::certificates::Authority;
use crate::support::data::Published;
use crate::support::fixture::Fixture;
use crate::support::recording_proxy::{contains, is_tls};
use crate::support::secure_broker::{PASSWORD, SecureBroker, USER};
use crate::support::until;
use crate::support::worker::{Worker, run, text};

/// A token that the broker takes without a signature.
fn bearer_token(user: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = serde_json::json!({"sub": user, "iat": now - 1, "exp": now + seconds});
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims.to_string()))
}

/// A broker with TLS and users, a fixture on it, and the ways to come to it.
struct Secured {
    authority: Authority,
    broker: SecureBroker,
    fixture: Fixture,
    ca: String,
}

/// A client that the broker refuses: what is wrong with it, its environment, the key of the problem, and the message that it gets.
struct Refused {
    what: &'static str,
    environment: Vec<(String, String)>,
    key: &'static str,
    says: Vec<&'static str>,
}

/// A topic that the user has no right on.
const SECRET_TOPIC: &str = "secret.points";

impl Secured {
    async fn start(test: &str) -> Option<Self> {
        let authority = Authority::new("Test CA");
        let broker = SecureBroker::start(test, &authority).await?;
        let fixture = Fixture::on_broker(&broker.plain, test, 1).await;
        broker.allow(&[&fixture.series_topic, &fixture.points_topic], &fixture.group);
        fixture.broker.create(SECRET_TOPIC, 1, &[]).await;
        let ca = broker.file("ca.pem", &authority.certificate);
        Some(Self { authority, broker, fixture, ca })
    }

    fn by(&self, brokers: &str, protocol: &str, extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut environment = with(&self.fixture.environment(), &[("KAFKA_BROKERS", brokers)]);
        environment.extend(properties(&[("security.protocol", protocol), ("ssl.ca.location", &self.ca)]));
        let extra = properties(extra);
        with(&environment, &extra.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>())
    }

    fn sasl(&self, mechanism: &str, user: &str, password: &str) -> Vec<(String, String)> {
        let names = [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", password)];
        self.by(&self.broker.sasl, "SASL_SSL", &names)
    }

    fn bearer(&self, token: &str, name: &str) -> Vec<(String, String)> {
        let mut environment = self.by(&self.broker.sasl, "SASL_SSL", &[("sasl.mechanism", "OAUTHBEARER")]);
        environment.push(("SERIES_INGEST__KAFKA__OAUTH_TOKEN_FILE".to_owned(), self.broker.file(name, token)));
        environment
    }

    /// By the user's certificate, of this CA.
    fn certified(&self, authority: &Authority, name: &str) -> Vec<(String, String)> {
        let own = authority.client(USER);
        let certificate = self.broker.file(&format!("{name}.pem"), &own.certificate);
        let key = self.broker.file(&format!("{name}.key"), &own.key);
        self.by(&self.broker.mutual, "SSL", &[("ssl.certificate.location", &certificate), ("ssl.key.location", &key)])
    }

    fn refused(&self) -> Vec<Refused> {
        let stranger = Authority::new("Another CA");
        let other_ca = self.broker.file("other.pem", &stranger.certificate);
        let scram = self.sasl("SCRAM-SHA-512", USER, PASSWORD);
        let topic = |key: &str| with(&scram, &[(key, SECRET_TOPIC)]);
        let case =
            |what, environment, key, says: &[&'static str]| Refused { what, environment, key, says: says.to_vec() };
        let properties = "kafka.properties";
        let mut cases = vec![
            case(
                "wrong CA",
                self.by(&self.broker.encrypted, "SSL", &[("ssl.ca.location", &other_ca)]),
                properties,
                &["is of a CA that is not known", "ssl.ca.location"],
            ),
            case("expired", self.by(&self.broker.expired, "SSL", &[]), properties, &["has expired", "renew it"]),
            case(
                "wrong host name",
                self.by(&self.broker.foreign, "SSL", &[]),
                properties,
                &["is for another host", "elsewhere.example"],
            ),
            case(
                "expired token",
                self.bearer(&bearer_token(USER, -10), "old"),
                properties,
                &["has expired", "oauth_token"],
            ),
            case("no certificate", self.by(&self.broker.mutual, "SSL", &[]), properties, &[CERTIFICATE]),
            case("certificate of another CA", self.certified(&stranger, "stranger"), properties, &[CERTIFICATE]),
            case("no credentials", self.by(&self.broker.sasl, "SSL", &[]), properties, &["SASL", "security.protocol"]),
            case(
                "no right on the topic",
                topic("SERIES_INGEST__KAFKA__POINTS_TOPIC"),
                "kafka.points_topic",
                &[SECRET_TOPIC, "uthoriz"],
            ),
            case(
                "no right on the topic of series",
                topic("SERIES_INGEST__KAFKA__SERIES_TOPIC"),
                "kafka.series_topic",
                &[SECRET_TOPIC, "uthoriz"],
            ),
            case(
                "no right on the group",
                with(&scram, &[("SERIES_INGEST__KAFKA__GROUP_ID", "another-group")]),
                "kafka.group_id",
                &["READ the group"],
            ),
        ];
        for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
            let environment = self.sasl(mechanism, USER, "wrong-password");
            cases.push(case("wrong password", environment, properties, &["refuses this client's credentials"]));
        }
        cases
    }

    /// What says that TLS is where it must not be, or is not where it must be.
    fn wrong_protocol(&self) -> Vec<Refused> {
        let properties = "kafka.properties";
        let case = |what, environment, says: &[&'static str]| Refused {
            what,
            environment,
            key: properties,
            says: says.to_vec(),
        };
        let sasl = [("sasl.mechanism", "PLAIN"), ("sasl.username", USER), ("sasl.password", PASSWORD)];
        vec![
            case(
                "in plaintext",
                self.by(&self.broker.encrypted, "PLAINTEXT", &[]),
                &["takes TLS only", "set it to SSL or SASL_SSL", "security.protocol"],
            ),
            case(
                "credentials in plaintext",
                self.by(&self.broker.sasl, "SASL_PLAINTEXT", &sasl),
                &["takes TLS only", "set it to SSL or SASL_SSL", "security.protocol"],
            ),
            case(
                "TLS to a listener without it",
                self.by(&self.broker.plain, "SSL", &[]),
                &["no TLS", "security.protocol"],
            ),
        ]
    }

    /// That none of these clients has sent anything but TLS, nor anything that the test would know.
    fn assert_only_tls(&self, sent: &[Vec<u8>]) {
        assert!(sent.iter().any(|sent| !sent.is_empty()), "the clients came by the taps");
        let plain = format!("\0{USER}\0{PASSWORD}");
        for sent in sent {
            let at = &sent[..sent.len().min(64)];
            assert!(is_tls(sent), "{} bytes that begin with {at:?}", sent.len());
            for part in [
                &plain,
                USER,
                PASSWORD,
                "wrong-password",
                &self.fixture.points_topic,
                SECRET_TOPIC,
                &self.fixture.group,
                IN_CLEAR,
            ] {
                assert!(!contains(sent, part), "{part:?} is seen");
            }
        }
    }
}

/// What each client of this program says first in its first request.
const IN_CLEAR: &str = "series-ingest";

const CERTIFICATE: &str = "does not accept this client's certificate, or asks for one";

/// Runs `check` for all of them at once.
async fn check_all(cases: Vec<Refused>, code_of: impl Fn(&Refused) -> i32) {
    let checks: Vec<_> = cases
        .into_iter()
        .map(|case| {
            let code = code_of(&case);
            tokio::task::spawn_blocking(move || (run(&case.environment, &["check"]), case, code))
        })
        .collect();
    let mut wrong = Vec::new();
    for check in checks {
        let (output, Refused { what, key, says, .. }, code) = check.await.unwrap();
        let printed = text(&output);
        let is_said = printed.contains(&format!("{key}: ")) && says.iter().all(|part| printed.contains(part));
        if output.status.code() != Some(code) || !is_said {
            wrong.push(format!("{what}: {:?}, {key}, {says:?}\n{printed}", output.status.code()));
        }
        assert!(!printed.contains(PASSWORD) && !printed.contains("wrong-password"), "{what}: {printed}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_reached_by_tls_and_sasl_or_each_refusal_says_what_is_wrong() {
    let Some(secured) = Secured::start("sasl").await else { return };
    let fine = |what, environment| Refused { what, environment, key: "kafka", says: vec!["kafka: cluster", "id "] };
    let right = vec![
        fine("SCRAM-SHA-512", secured.sasl("SCRAM-SHA-512", USER, PASSWORD)),
        fine("SCRAM-SHA-256", secured.sasl("SCRAM-SHA-256", USER, PASSWORD)),
        fine("PLAIN", secured.sasl("PLAIN", USER, PASSWORD)),
        fine("OAUTHBEARER", secured.bearer(&bearer_token(USER, 3600), "token")),
        fine("TLS", secured.by(&secured.broker.encrypted, "SSL", &[])),
        fine("client certificate", secured.certified(&secured.authority, "user")),
    ];
    check_all(right, |_| 0).await;
    check_all(secured.refused(), |case| if case.key == "kafka.properties" { 69 } else { 64 }).await;
    secured.assert_only_tls(&secured.broker.sent());

    // A client that is configured to speak in plaintext is recorded by the proxies, sends no credentials, and learns what to change.
    check_all(secured.wrong_protocol(), |_| 69).await;
    let sent = secured.broker.sent();
    assert!(sent.iter().any(|sent| !is_tls(sent) && contains(sent, IN_CLEAR)), "what is in plaintext is seen");
    assert!(!sent.iter().any(|sent| contains(sent, PASSWORD)), "credentials are seen");
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_kafka_refuses_says_why_and_is_not_ready_and_sends_nothing_in_plaintext() {
    let Some(secured) = Secured::start("refused").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    let start = |environment: &[(String, String)]| Worker::start(&fixture.name, environment, &[]);
    let cases: Vec<(Refused, Worker)> = secured
        .refused()
        .into_iter()
        .map(|case| {
            let worker = start(&case.environment);
            (case, worker)
        })
        .collect();
    // One that is not refused works meanwhile.
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    let meanwhile = start(&secured.bearer(&bearer_token(USER, 3600), "meanwhile"));
    for (case, worker) in &cases {
        for part in &case.says {
            until_not_ready(worker, part).await;
        }
        // A refusal of the group is reported by the group's own sign first.
        until_not_ready(worker, "kafka: ").await;
        until(30, case.what, async || case.says.iter().all(|part| worker.log().contains(part))).await;
        assert!(!worker.log().contains("wrong-password") && !worker.log().contains(PASSWORD));
    }
    drop(cases);
    fixture.until_applied(60).await;
    meanwhile.until_ready().await;
    drop(meanwhile);
    let token = broker.file("short-token", &bearer_token(USER, 15));
    let worker = start(&with(&secured.bearer("", "x"), &[("SERIES_INGEST__KAFKA__OAUTH_TOKEN_FILE", &token)]));
    worker.until_ready().await;
    // Its token soon expires: the file has a new one, which new connections need.
    broker.file("short-token", &bearer_token(USER, 3600));
    tokio::time::sleep(Duration::from_secs(16)).await;
    fixture.publish(&mut published, 20, 25);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    worker.until_ready().await;
    drop(worker);
    let by_certificate = start(&secured.certified(&secured.authority, "user"));
    fixture.publish(&mut published, 20, 25);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    by_certificate.until_ready().await;
    drop(by_certificate);
    secured.assert_only_tls(&broker.sent());

    let cases = secured.wrong_protocol();
    let workers: Vec<Worker> = cases.iter().map(|case| start(&case.environment)).collect();
    for (case, worker) in cases.iter().zip(&workers) {
        for part in &case.says {
            until_not_ready(worker, part).await;
        }
    }
    drop(workers);
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_not_see_a_topics_settings_learns_what_to_allow_and_works() {
    let Some(secured) = Secured::start("settings").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    let environment = secured.sasl("SCRAM-SHA-512", USER, PASSWORD);
    let topics = [("kafka.series_topic", &fixture.series_topic), ("kafka.points_topic", &fixture.points_topic)];
    let output = run(&environment, &["check"]);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    for (key, topic) in topics {
        let begin = format!("warning: {key}: this client's user may not ask for the settings of topic {topic}: ");
        let line = printed.lines().find(|line| line.starts_with(&begin)).unwrap_or_default();
        assert!(line.contains("allow it to DESCRIBE_CONFIGS the topic"), "{key}: {printed}");
    }

    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    let worker = Worker::start(&fixture.name, &environment, &[]);
    fixture.until_applied(60).await;
    worker.until_ready().await;
    // The first time was for `check`.
    let asked = |topic: &str| broker.denied("DESCRIBE_CONFIGS", topic) - 1;
    until(120, "it has asked three times", async || topics.iter().all(|(_, topic)| asked(topic) >= 3)).await;
    for (_, topic) in topics {
        let said = [" WARN ", "the settings of a topic are not known", topic, "DESCRIBE_CONFIGS"];
        let is_said = |line: &&str| said.iter().all(|part| line.contains(part));
        assert_eq!(worker.log().lines().filter(is_said).count(), 1, "{topic}: {}", worker.log());
    }
    assert_eq!(worker.get("/readyz").unwrap().0, 200);
    fixture.assert_exact(&published).await;
    drop(worker);
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reads_with_a_password_by_each_mechanism() {
    let Some(secured) = Secured::start("password").await else { return };
    let Secured { fixture, .. } = &secured;
    let mut published = Published::default();
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        fixture.publish(&mut published, 20, 25);
        let mut worker = Worker::start(&fixture.name, &secured.sasl(mechanism, USER, PASSWORD), &[]);
        fixture.until_applied(60).await;
        worker.until_ready().await;
        assert_eq!(worker.terminate(10), Some(0));
    }
    fixture.assert_exact(&published).await;
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_dead_letters_take_a_right_and_a_token_and_wait_for_both() {
    let Some(secured) = Secured::start("copies").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    fixture.broker.create("dead.letters", 1, &[]).await;
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    let environment = secured.bearer(&bearer_token(USER, 3600), "token");
    let topic = [("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", "dead.letters")];
    let worker = Worker::start(&fixture.name, &environment, &topic);
    let problem = || {
        let status: serde_json::Value = serde_json::from_str(&worker.get("/status").unwrap().1).unwrap();
        assert_eq!(status["dead_letter_topic"]["name"], "dead.letters");
        status["dead_letter_topic"]["problem"]["reason"].as_str().map(str::to_owned)
    };
    fixture.until_applied(60).await;
    until(60, "it says what it lacks", async || problem().is_some_and(|why| why.contains("WRITE and DESCRIBE"))).await;
    assert!(worker.log().contains("copies of dead letters were not published"), "{}", worker.log());
    let failed = worker.metric("series_ingest_dead_letters_published_total{outcome=\"failed\"}");
    assert!(failed.is_some_and(|count| count >= 1.0), "{failed:?}");
    assert_eq!(fixture.difference(&published).await, Default::default());
    // Nothing waits for copies.
    worker.until_ready().await;
    broker.allow_to_write("dead.letters");
    until(60, "the copy is there", async || fixture.broker.offsets("dead.letters", 0).len() == 1).await;
    until(60, "the problem is over", async || problem().is_none()).await;
    worker.until_ready().await;
    drop(worker);
    secured.assert_only_tls(&broker.sent());
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_kafka_that_is_rotated_in_its_file_needs_no_restart() {
    let Some(secured) = Secured::start("rotated").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    fixture.broker.create("rotated.letters", 1, &[]).await;
    broker.allow_to_write("rotated.letters");
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    fixture.producer.flush();
    let password = broker.file("password", "of-yesterday\n");
    let scram = [("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.username", USER)];
    let mut environment = secured.by(&broker.sasl, "SASL_SSL", &scram);
    environment.push(("SERIES_INGEST__KAFKA__PROPERTIES_FILES__SASL_PASSWORD".to_owned(), password.clone()));
    environment.push(("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC".to_owned(), "rotated.letters".to_owned()));
    let worker = Worker::start(&fixture.name, &environment, &[]);
    until_not_ready(&worker, "sasl.password").await;
    // A file that is replaced may be missing for a moment.
    std::fs::remove_file(&password).unwrap();
    until(30, "it is said", async || worker.log().contains("cannot be read again; the earlier ones are used")).await;
    broker.file("password", PASSWORD);
    worker.until_ready().await;
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Default::default());
    // The producer of copies is another client, which was refused as well.
    until(60, "the copy is there", async || fixture.broker.offsets("rotated.letters", 0).len() == 1).await;
    let log = worker.log();
    assert!(log.contains("the credentials of Kafka have changed in their files"), "{log}");
    assert!(!log.contains(PASSWORD) && !log.contains("of-yesterday"), "{log}");
    drop(worker);
    secured.fixture.remove().await;
}
