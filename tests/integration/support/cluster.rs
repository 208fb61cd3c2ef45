//! Brokers of one test's own, which it may kill, freeze and start again. They end with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{servers, skip, until};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");

/// What `scripts/stack` says if a test cannot have its own broker.
const NOT_POSSIBLE: i32 = 77;

/// The topic in which the brokers keep the groups: the leader of its one partition is the coordinator of all of them.
#[allow(dead_code, reason = "only tests/chaos uses it")]
const GROUPS: &str = "__consumer_offsets";

pub struct Cluster {
    nodes: Vec<Node>,
    /// The addresses of all brokers.
    pub brokers: String,
    /// The number of brokers among the nodes, which come first; one more is the controller if there are several.
    count: usize,
    _folder: tempfile::TempDir,
}

struct Node {
    settings: String,
    address: String,
    log: PathBuf,
    child: Option<Child>,
}

fn kafka(arguments: &[&str]) -> Output {
    Command::new(STACK).arg("kafka").args(arguments).stdin(Stdio::null()).output().unwrap()
}

impl Cluster {
    /// This many brokers that answer; `None`, loudly, if there can be none.
    pub async fn start(test: &str, count: usize) -> Option<Self> {
        servers(test)?;
        let folder = tempfile::tempdir().unwrap();
        // All at once, so that no two are the same.
        let listeners: Vec<TcpListener> = (0..=count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let controller_port = ports[count];
        let replicas = count.min(2);
        // With several brokers the controller is a separate node: it stays while brokers go.
        let controller = if count == 1 { 1 } else { count + 1 };
        let nodes = if count == 1 { 1 } else { count + 1 };
        let mut cluster = Self {
            nodes: Vec::new(),
            brokers: ports[..count].iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(","),
            count,
            _folder: folder,
        };
        for number in 1..=nodes {
            let (is_broker, is_controller) = (number <= count, number == controller);
            let roles: Vec<&str> =
                [is_broker.then_some("broker"), is_controller.then_some("controller")].into_iter().flatten().collect();
            let broker = is_broker.then(|| format!("PLAINTEXT://127.0.0.1:{}", ports[number - 1]));
            let own = is_controller.then(|| format!("CONTROLLER://127.0.0.1:{controller_port}"));
            let listeners: Vec<String> = [broker.clone(), own].into_iter().flatten().collect();
            let file = |name: &str| cluster._folder.path().join(format!("{name}{number}")).to_str().unwrap().to_owned();
            let settings = format!(
                "process.roles={}\n\
                 node.id={number}\n\
                 controller.quorum.voters={controller}@127.0.0.1:{controller_port}\n\
                 controller.listener.names=CONTROLLER\n\
                 listeners={}\n\
                 {}\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
                 log.dirs={}\n\
                 auto.create.topics.enable=false\n\
                 default.replication.factor={replicas}\n\
                 offsets.topic.replication.factor={replicas}\n\
                 offsets.topic.num.partitions=1\n\
                 transaction.state.log.replication.factor=1\n\
                 transaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\n\
                 group.min.session.timeout.ms=1000\n\
                 broker.heartbeat.interval.ms=500\n\
                 broker.session.timeout.ms=3000\n\
                 replica.lag.time.max.ms=3000\n",
                roles.join(","),
                listeners.join(","),
                broker.map(|broker| format!("advertised.listeners={broker}\n")).unwrap_or_default(),
                file("data"),
            );
            let path = file("server.properties");
            std::fs::write(&path, settings).unwrap();
            let made = kafka(&["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", &path]);
            let words = String::from_utf8_lossy(&made.stderr);
            if made.status.code() == Some(NOT_POSSIBLE) {
                skip(test, words.trim());
                return None;
            }
            assert!(made.status.success(), "{words}");
            let name = format!("{test}-{}-node-{number}.log", std::process::id());
            let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
            File::create(&log).unwrap();
            let address = if is_broker { format!("127.0.0.1:{}", ports[number - 1]) } else { String::new() };
            cluster.nodes.push(Node { settings: path, address, log, child: None });
        }
        for node in &mut cluster.nodes {
            node.launch();
        }
        cluster.until_answer().await;
        Some(cluster)
    }

    /// Waits until each broker answers.
    pub async fn until_answer(&mut self) {
        for node in &mut self.nodes[..self.count] {
            let log = node.log.display().to_string();
            let address = node.address.clone();
            until(120, &format!("the broker of {log} answers"), async || {
                let address = address.clone();
                assert!(node.child.as_mut().unwrap().try_wait().unwrap().is_none(), "the broker ended: {log}");
                let asked = tokio::task::spawn_blocking(move || {
                    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
                    client.fetch_metadata(None, Duration::from_millis(1000)).is_ok()
                });
                asked.await.unwrap()
            })
            .await;
        }
    }

    /// Kills all brokers with SIGKILL.
    pub fn kill(&mut self) {
        for number in 0..self.count {
            self.kill_one(number);
        }
    }

    /// Starts the brokers that do not run, and does not wait for them.
    pub fn launch(&mut self) {
        for node in &mut self.nodes[..self.count] {
            if node.child.is_none() {
                node.launch();
            }
        }
    }

    pub fn kill_one(&mut self, number: usize) {
        if let Some(mut child) = self.nodes[number].child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Sends all brokers a signal, such as one to freeze them.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub fn signal(&self, name: &str) {
        for child in self.nodes[..self.count].iter().filter_map(|node| node.child.as_ref()) {
            let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
            assert!(status.success());
        }
    }

    /// The broker that coordinates the groups; `None` if none does now.
    #[allow(dead_code, reason = "only tests/chaos uses it")]
    pub fn coordinator(&self) -> Option<usize> {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let metadata = client.fetch_metadata(Some(GROUPS), Duration::from_secs(5)).ok()?;
        let leader = metadata.topics().first()?.partitions().first()?.leader();
        usize::try_from(leader).ok()?.checked_sub(1).filter(|number| *number < self.count)
    }
}

impl Node {
    fn launch(&mut self) {
        let output = File::options().append(true).open(&self.log).unwrap();
        let child = Command::new(STACK)
            .args(["kafka", "kafka.Kafka", &self.settings])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}
