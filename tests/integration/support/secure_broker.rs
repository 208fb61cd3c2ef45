//! A Kafka of one test's own, with TLS, users and rights. It ends with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::certificates::{Authority, Certified};
use super::recording_proxy::RecordingProxy;
use super::{servers, skip, until};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");

/// What `scripts/stack` says where there can be no broker of a test's own.
const NOT_POSSIBLE: i32 = 77;

/// The user that may read what [`SecureBroker::allow`] says; its password and its bearer tokens' name are the same for every
/// mechanism.
pub const USER: &str = "worker";
pub const PASSWORD: &str = "right-password";

/// The listeners under TLS.
const LISTENERS: [&str; 5] = ["SASL", "ENCRYPTED", "EXPIRED", "FOREIGN", "MUTUAL"];

pub struct SecureBroker {
    child: Child,
    folder: tempfile::TempDir,
    log: PathBuf,
    /// Takes everything, in plaintext.
    pub plain: String,
    /// TLS for localhost, and a user's name by SCRAM, PLAIN or OAUTHBEARER.
    pub sasl: String,
    /// TLS for localhost, for anybody.
    pub encrypted: String,
    /// The same with a certificate that has expired.
    pub expired: String,
    /// The same with a certificate for another host.
    pub foreign: String,
    /// TLS for localhost, and a user's name by his certificate.
    pub mutual: String,
    /// The proxies in front of the listeners under TLS.
    taps: Vec<RecordingProxy>,
}

fn kafka(arguments: &[&str]) -> Output {
    Command::new(STACK).arg("kafka").args(arguments).stdin(Stdio::null()).output().unwrap()
}

impl SecureBroker {
    /// A broker that answers; `None`, loudly, where there can be none.
    pub async fn start(test: &str, authority: &Authority) -> Option<Self> {
        servers(test)?;
        let folder = tempfile::tempdir().unwrap();
        let [controller, plain, listeners @ ..] = free_ports();
        let mut taps = Vec::new();
        for listener in listeners {
            taps.push(RecordingProxy::start(listener).await);
        }
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let good = authority.server(&["localhost"]);
        let stores = [
            ("SASL", &good),
            ("ENCRYPTED", &good),
            ("EXPIRED", &authority.expired_server(&["localhost"])),
            ("FOREIGN", &authority.server(&["elsewhere.example"])),
            ("MUTUAL", &good),
        ];
        let per_listener = |line: &dyn Fn(&str, usize) -> String| -> String {
            LISTENERS.iter().enumerate().map(|(number, name)| line(name, number)).collect()
        };
        let mut settings = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=CONTROLLER://127.0.0.1:{controller},PLAINTEXT://127.0.0.1:{plain}{bound}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{plain}{advertised}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{protocols}\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\n\
             listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER\n\
             listener.name.sasl.scram-sha-256.sasl.jaas.config={scram};\n\
             listener.name.sasl.scram-sha-512.sasl.jaas.config={scram};\n\
             listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
             user_{USER}=\"{PASSWORD}\";\n\
             listener.name.sasl.oauthbearer.sasl.jaas.config=\
             org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;\n\
             listener.name.mutual.ssl.client.auth=required\n\
             listener.name.mutual.ssl.truststore.type=PEM\n\
             listener.name.mutual.ssl.truststore.location={ca}\n\
             listener.name.mutual.ssl.principal.mapping.rules=RULE:^CN=(.*)$/$1/\n",
            bound = per_listener(&|name, number| format!(",{name}://127.0.0.1:{}", listeners[number])),
            advertised = per_listener(&|name, number| format!(",{name}://localhost:{}", taps[number].port)),
            protocols = per_listener(&|name, _| format!(",{name}:{}", if name == "SASL" { "SASL_SSL" } else { "SSL" })),
            ca = file("ca"),
            data = file("data"),
            scram = "org.apache.kafka.common.security.scram.ScramLoginModule required",
        );
        std::fs::write(file("ca"), &authority.certificate).unwrap();
        for (listener, Certified { certificate, key }) in stores {
            let store = file(listener);
            std::fs::write(&store, format!("{key}{certificate}{}", authority.certificate)).unwrap();
            let prefix = format!("listener.name.{}.ssl.keystore", listener.to_lowercase());
            settings += &format!("{prefix}.type=PEM\n{prefix}.location={store}\n");
        }
        let (settings_file, users) = (file("server.properties"), ["SCRAM-SHA-256", "SCRAM-SHA-512"]);
        std::fs::write(&settings_file, settings).unwrap();
        let users = users.map(|mechanism| format!("{mechanism}=[name={USER},password={PASSWORD}]"));
        let format = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", &settings_file];
        let made = kafka(&[&format[..], &["--add-scram", &users[0], "--add-scram", &users[1]]].concat());
        let words = String::from_utf8_lossy(&made.stderr);
        if made.status.code() == Some(NOT_POSSIBLE) {
            skip(test, words.trim());
            return None;
        }
        assert!(made.status.success(), "{words}");
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}-broker.log", std::process::id()));
        let output = File::create(&log).unwrap();
        let child = Command::new(STACK)
            .args(["kafka", "kafka.Kafka", &settings_file])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let [sasl, encrypted, expired, foreign, mutual] =
            std::array::from_fn(|number| format!("localhost:{}", taps[number].port));
        let plain = format!("127.0.0.1:{plain}");
        let mut broker = Self { child, folder, log, plain, sasl, encrypted, expired, foreign, mutual, taps };
        broker.until_answers().await;
        Some(broker)
    }

    async fn until_answers(&mut self) {
        let client: Arc<BaseConsumer> =
            Arc::new(ClientConfig::new().set("bootstrap.servers", &self.plain).create().unwrap());
        until(120, "the broker answers", async || {
            assert!(self.child.try_wait().unwrap().is_none(), "the broker ended: {}", self.log.display());
            let client = Arc::clone(&client);
            let asked =
                tokio::task::spawn_blocking(move || client.fetch_metadata(None, Duration::from_millis(500)).is_ok());
            asked.await.unwrap()
        })
        .await;
    }

    /// Lets [`USER`] read these topics as a member of this group, and nothing else.
    pub fn allow(&self, topics: &[&str], group: &str) {
        let topics = topics.iter().flat_map(|topic| ["--topic", topic]);
        self.add_rights(&topics.chain(["--consumer", "--group", group]).collect::<Vec<_>>());
    }

    /// Lets [`USER`] write to this topic, too.
    pub fn allow_to_write(&self, topic: &str) {
        self.add_rights(&["--producer", "--topic", topic]);
    }

    fn add_rights(&self, what: &[&str]) {
        let principal = format!("User:{USER}");
        let add = ["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &self.plain, "--add"];
        let done = kafka(&[&add[..], &["--allow-principal", &principal], what].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// What clients have sent to the listeners under TLS so far, by connection.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.taps.iter().flat_map(RecordingProxy::sent).collect()
    }

    /// How often it has denied [`USER`] this operation on this topic.
    pub fn denied(&self, operation: &str, topic: &str) -> usize {
        let parts =
            [format!("User:{USER} is Denied operation = {operation} "), format!("resource = Topic:LITERAL:{topic} ")];
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Sends it a signal, such as one to freeze it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Writes a file alongside the broker's; its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Ports that were free a moment ago.
fn free_ports() -> [u16; LISTENERS.len() + 2] {
    let listeners = [(); LISTENERS.len() + 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

impl Drop for SecureBroker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of {}\n{}", self.log.display(), lines[lines.len().saturating_sub(25)..].join("\n"));
        }
    }
}
