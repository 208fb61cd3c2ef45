//! A Kafka of one test's own, without TLS and users, which may be killed and started again. It ends with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{servers, skip, until};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");

/// What `scripts/stack` returns if a test cannot have its own broker.
const NOT_POSSIBLE: i32 = 77;

/// What the second listener advertises: a name that has no address.
pub const NOWHERE: &str = "nowhere.invalid:9092";

pub struct OwnBroker {
    child: Option<Child>,
    _folder: tempfile::TempDir,
    settings: String,
    log: PathBuf,
    /// Its listener, which advertises itself.
    pub address: String,
    /// A listener that advertises [`NOWHERE`].
    pub misadvertised: String,
}

fn kafka(arguments: &[&str]) -> Output {
    Command::new(STACK).arg("kafka").args(arguments).stdin(Stdio::null()).output().unwrap()
}

impl OwnBroker {
    /// A broker that answers, with these settings besides; `None`, loudly, if there can be none.
    pub async fn start(test: &str, extra: &[&str]) -> Option<Self> {
        servers(test)?;
        let folder = tempfile::tempdir().unwrap();
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [controller, plain, other] = listeners.map(|listener| listener.local_addr().unwrap().port());
        let settings = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=CONTROLLER://127.0.0.1:{controller},PLAINTEXT://127.0.0.1:{plain},OTHER://127.0.0.1:{other}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{plain},OTHER://{NOWHERE}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,OTHER:PLAINTEXT\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             {extra}\n",
            data = folder.path().join("data").display(),
            extra = extra.join("\n"),
        );
        let file = folder.path().join("server.properties").to_str().unwrap().to_owned();
        std::fs::write(&file, settings).unwrap();
        let made = kafka(&["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", &file]);
        let words = String::from_utf8_lossy(&made.stderr);
        if made.status.code() == Some(NOT_POSSIBLE) {
            skip(test, words.trim());
            return None;
        }
        assert!(made.status.success(), "{words}");
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}-broker.log", std::process::id()));
        let (address, misadvertised) = (format!("127.0.0.1:{plain}"), format!("127.0.0.1:{other}"));
        let mut broker = Self { child: None, _folder: folder, settings: file, log, address, misadvertised };
        broker.start_again().await;
        Some(broker)
    }

    /// Starts it with the data that it had, and waits until it answers.
    pub async fn start_again(&mut self) {
        let output = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(STACK)
            .args(["kafka", "kafka.Kafka", &self.settings])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let client: Arc<BaseConsumer> =
            Arc::new(ClientConfig::new().set("bootstrap.servers", &self.address).create().unwrap());
        until(120, "the broker answers", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the broker ended: {}", self.log.display());
            let client = Arc::clone(&client);
            let asked =
                tokio::task::spawn_blocking(move || client.fetch_metadata(None, Duration::from_millis(500)).is_ok());
            asked.await.unwrap()
        })
        .await;
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        self.kill();
    }
}
