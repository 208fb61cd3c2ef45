//! Everything breaks, in random order, under load; then all of it is healed, and the table must be exact. `make chaos` runs it.
//!
//! - `CHAOS_MINUTES`: rounds begin for this long; 30 where it is not set.
//! - `SEED`: the seed of the first round; each further round has the next number, so that a failed round can be run alone.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "the support is shared with the integration tests, which use the rest of it"
)]

#[path = "../integration/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use support::cluster::Cluster;
use support::data::Published;
use support::fixture::connect;
use support::fixture_with_server::FixtureWithServer;
use support::load::Load;
use support::outage::{Ongoing, Outage, until_writable};
use support::worker::{Worker, run, text};

const PARTITIONS: i32 = 4;
const POINTS_PER_S: u32 = 10_000;
const STEPS: usize = 12;
const JOURNALS: [&str; 3] = ["first", "second", "third"];

/// A server that hangs and a worker that froze are noticed soon, so that a round sees what comes of it.
const SETTINGS: &[(&str, &str)] = &[
    ("SERIES_INGEST__DATABASE__CONNECT_TIMEOUT_MS", "1000"),
    ("SERIES_INGEST__DATABASE__POOL_WAIT_TIMEOUT_MS", "1000"),
    ("SERIES_INGEST__DATABASE__IDLE_IN_TRANSACTION_TIMEOUT_MS", "3000"),
    ("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "500"),
    ("SERIES_INGEST__JOURNAL__SEGMENT_BYTES", "1048576"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The database goes away, or comes back.
    Outage,
    /// A worker is killed.
    Kill,
    /// A worker that is not there starts, with the journal that it left.
    Start,
    /// A worker stops as it is asked to.
    Stop,
    /// A worker is frozen, or thawed.
    Freeze,
    /// A copy of a journal is replayed alongside the workers.
    Replay,
    /// The database is stopped, copied, and started again.
    BackUp,
    /// The database is set back to its copy.
    Restore,
    /// All brokers go away, or come back.
    Brokers,
    /// The database and all brokers go away, or come back.
    Both,
    /// The broker that coordinates the group is killed, another one takes over, and it comes back.
    Coordinator,
    /// The password of the workers' role is another one, and soon their file has it.
    Password,
    /// A restore by dump begins, or ends: TimescaleDB refuses rows meanwhile.
    Dump,
}

impl Step {
    /// What happens often stands there more than once.
    const ALL: [Self; 23] = [
        Self::Outage,
        Self::Outage,
        Self::Outage,
        Self::Outage,
        Self::Kill,
        Self::Kill,
        Self::Start,
        Self::Start,
        Self::Stop,
        Self::Freeze,
        Self::Replay,
        Self::Replay,
        Self::BackUp,
        Self::Restore,
        Self::Restore,
        Self::Brokers,
        Self::Brokers,
        Self::Both,
        Self::Both,
        Self::Coordinator,
        Self::Password,
        Self::Dump,
        Self::Dump,
    ];
}

/// How all brokers are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokersAway {
    Killed,
    Frozen,
}

/// What was done, printed where the round fails.
struct Done {
    seed: u64,
    steps: Vec<String>,
}

impl Done {
    fn add(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("chaos: the round with SEED={} FAILED after: {}", self.seed, self.steps.join(", "));
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    rounds: usize,
    points: usize,
    outages: usize,
    kills: usize,
    freezes: usize,
    starts: usize,
    replays: usize,
    restores: usize,
    broker_outages: usize,
    coordinators: usize,
    passwords: usize,
    dumps: usize,
}

struct Round<'a> {
    cluster: &'a mut Cluster,
    ground: FixtureWithServer,
    random: StdRng,
    /// With the data on a small disk that gets full.
    has_small_disk: bool,
    workers: [Option<Worker>; JOURNALS.len()],
    frozen: [bool; JOURNALS.len()],
    ongoing: Option<(Outage, Ongoing)>,
    brokers_away: Option<BrokersAway>,
    /// `true` during a restore by dump.
    dump: bool,
    counts: &'a mut Counts,
    done: Done,
}

impl Round<'_> {
    /// Returns `true` if the step that was drawn could be done.
    async fn step(&mut self) -> bool {
        let step = *Step::ALL.choose(&mut self.random).unwrap();
        let chosen = self.random.random_range(0..JOURNALS.len());
        let name = JOURNALS[chosen];
        match step {
            Step::Outage if self.may_change_database() => self.toggle_outage().await,
            Step::Kill if self.workers[chosen].is_some() => {
                self.workers[chosen] = None;
                self.frozen[chosen] = false;
                self.counts.kills += 1;
                self.done.add(format!("{name} killed"));
            }
            Step::Start if self.workers[chosen].is_none() => self.start(chosen),
            Step::Stop if self.workers[chosen].is_some() && !self.frozen[chosen] => {
                let mut worker = self.workers[chosen].take().unwrap();
                assert_eq!(worker.terminate(30), Some(0), "{name} stops");
                self.done.add(format!("{name} stopped"));
            }
            Step::Freeze if self.workers[chosen].is_some() => {
                self.frozen[chosen] = !self.frozen[chosen];
                let (signal, what) = if self.frozen[chosen] { ("STOP", "frozen") } else { ("CONT", "thawed") };
                self.workers[chosen].as_ref().unwrap().signal(signal);
                self.counts.freezes += usize::from(self.frozen[chosen]);
                self.done.add(format!("{name} {what}"));
            }
            Step::Replay if self.may_replay(chosen) => self.replay_a_copy(chosen),
            Step::BackUp if self.may_stop_server() => self.back_up().await,
            Step::Restore if self.may_stop_server() => {
                self.ground.server.stop_fast();
                self.ground.server.restore();
                self.ground.server.start_again().await;
                self.ground.set_password().await;
                self.counts.restores += 1;
                self.done.add("restored");
            }
            Step::Brokers => self.toggle_brokers().await,
            Step::Both if self.ongoing.is_some() == self.brokers_away.is_some() && self.may_change_database() => {
                self.toggle_outage().await;
                self.toggle_brokers().await;
            }
            Step::Coordinator if self.brokers_away.is_none() => self.move_coordinator().await,
            Step::Password if self.ongoing.is_none() => {
                self.counts.passwords += 1;
                self.ground.rotate_password(&format!("password-{}", self.counts.passwords)).await;
                tokio::time::sleep(Duration::from_millis(self.random.random_range(0..2000))).await;
                self.ground.write_password();
                self.done.add("the password rotated");
            }
            Step::Dump if self.ongoing.is_none() => self.toggle_dump().await,
            _ => return false,
        }
        true
    }

    /// Returns `true` if an outage of the database may begin or end: none begins while a dump is restored.
    fn may_change_database(&self) -> bool {
        self.ongoing.is_some() || !self.dump
    }

    async fn toggle_brokers(&mut self) {
        match self.brokers_away.take() {
            Some(how) => {
                match how {
                    BrokersAway::Killed => self.cluster.launch(),
                    BrokersAway::Frozen => self.cluster.signal("CONT"),
                }
                self.cluster.until_answer().await;
                self.done.add("the brokers are back");
            }
            None => {
                let how = if self.random.random() { BrokersAway::Killed } else { BrokersAway::Frozen };
                match how {
                    BrokersAway::Killed => self.cluster.kill(),
                    BrokersAway::Frozen => self.cluster.signal("STOP"),
                }
                self.brokers_away = Some(how);
                self.counts.broker_outages += 1;
                self.done.add(format!("the brokers {how:?}"));
            }
        }
    }

    async fn move_coordinator(&mut self) {
        let Some(coordinator) = self.cluster.coordinator() else { return };
        self.cluster.kill_one(coordinator);
        let cluster = &*self.cluster;
        support::until(60, "another broker coordinates the group", async || {
            cluster.coordinator().is_some_and(|other| other != coordinator)
        })
        .await;
        self.cluster.launch();
        self.cluster.until_answer().await;
        self.counts.coordinators += 1;
        self.done.add("the coordinator moved");
    }

    /// As `pg_restore` with TimescaleDB's own functions around it does.
    async fn toggle_dump(&mut self) {
        let admin = connect(&self.ground.database_url()).await;
        let (function, what) =
            if self.dump { ("timescaledb_post_restore", "ended") } else { ("timescaledb_pre_restore", "began") };
        admin.batch_execute(&format!("select {function}()")).await.unwrap();
        self.dump = !self.dump;
        self.counts.dumps += usize::from(self.dump);
        self.done.add(format!("a restore by dump {what}"));
    }

    fn may_stop_server(&self) -> bool {
        !self.has_small_disk && self.ongoing.is_none() && !self.dump
    }

    async fn back_up(&mut self) {
        self.ground.server.stop_fast();
        self.ground.server.back_up();
        self.ground.server.start_again().await;
        self.done.add("backed up");
    }

    fn start(&mut self, chosen: usize) {
        self.workers[chosen] = Some(self.ground.worker(JOURNALS[chosen], SETTINGS));
        self.counts.starts += 1;
        self.done.add(format!("{} started", JOURNALS[chosen]));
    }

    async fn toggle_outage(&mut self) {
        if self.ongoing.is_some() {
            return self.end_outage().await;
        }
        // A small disk does not outlive the server's process.
        let further: &[Outage] =
            if self.has_small_disk { &[Outage::DiskFull] } else { &[Outage::Killed, Outage::Stopped] };
        let kinds = [&[Outage::Frozen, Outage::ReadOnly, Outage::NoConnections, Outage::RoleLocked], further].concat();
        let outage = *kinds.choose(&mut self.random).unwrap();
        self.ongoing = Some((outage, outage.begin(&mut self.ground).await));
        self.counts.outages += 1;
        self.done.add(format!("{outage:?}"));
    }

    async fn end_outage(&mut self) {
        if let Some((outage, ongoing)) = self.ongoing.take() {
            ongoing.end(&mut self.ground).await;
            until_writable(&self.ground).await;
            self.done.add(format!("{outage:?} healed"));
        }
    }

    fn may_replay(&self, chosen: usize) -> bool {
        let is_frozen = self.ongoing.as_ref().is_some_and(|(outage, _)| *outage == Outage::Frozen);
        !is_frozen
            && !self.dump
            && self.brokers_away.is_none()
            && self.ground.journal(JOURNALS[chosen]).try_exists().unwrap()
    }

    /// The answer is ignored: while the database is away it is an error, and what counts is the table.
    fn replay_a_copy(&mut self, chosen: usize) {
        let original = self.ground.journal(JOURNALS[chosen]);
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(original).unwrap() {
            let entry = entry.unwrap();
            // A segment that the worker deletes meanwhile is in the database.
            drop(std::fs::copy(entry.path(), copy.path().join(entry.file_name())));
        }
        let output = self.journal_command("replay", copy.path(), &[]);
        self.counts.replays += 1;
        self.done.add(format!("a copy of {}'s journal replayed ({:?})", JOURNALS[chosen], output.status.code()));
    }

    fn journal_command(&self, command: &str, directory: &std::path::Path, more: &[&str]) -> std::process::Output {
        let mut environment = self.ground.fixture.environment();
        environment.retain(|(name, _)| name != "DATABASE_URL");
        environment.push(("DATABASE_URL".to_owned(), self.ground.url()));
        let directory = directory.to_str().unwrap();
        run(&environment, &[&["journal", command, "--directory", directory], more].concat())
    }

    /// Heals all, and demands that everything is there once.
    async fn check(mut self, load: Load) {
        self.end_outage().await;
        if self.dump {
            self.toggle_dump().await;
        }
        if self.brokers_away.is_some() {
            self.toggle_brokers().await;
        }
        for chosen in 0..JOURNALS.len() {
            match &self.workers[chosen] {
                Some(worker) if self.frozen[chosen] => worker.signal("CONT"),
                Some(_) => {}
                None => self.start(chosen),
            }
        }
        let published = load.stop();
        let ground = &mut self.ground;
        ground.fixture.connect_to(&ground.server).await;
        ground.fixture.until_applied(180).await;
        for worker in self.workers.iter().flatten() {
            worker.until_mode("streaming").await;
        }
        self.ground.fixture.assert_exact(&published).await;
        for worker in self.workers.iter_mut().flatten() {
            assert_eq!(worker.terminate(30), Some(0), "a worker stops: {}", worker.log());
        }
        for name in JOURNALS {
            let output = text(&self.journal_command("replay", &self.ground.journal(name), &["--dry-run"]));
            assert!(output.starts_with("0 messages with 0 points"), "{name}'s journal is drained: {output}");
        }
        self.ground.fixture.assert_exact(&published).await;
        self.counts.rounds += 1;
        self.counts.points += published.rows.len();
        println!("chaos: SEED={}, {} points: {}", self.done.seed, published.rows.len(), self.done.steps.join(", "));
        self.workers = [None, None, None];
        self.ground.fixture.remove().await;
    }
}

/// One round; whether there is a server for it.
async fn round(seed: u64, cluster: &mut Cluster, counts: &mut Counts) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    let has_small_disk = random.random_ratio(1, 4);
    let Some(ground) = FixtureWithServer::on_brokers(&cluster.brokers, "chaos", PARTITIONS, has_small_disk).await
    else {
        return false;
    };
    let mut round = Round {
        cluster,
        ground,
        random,
        has_small_disk,
        workers: [None, None, None],
        frozen: [false; JOURNALS.len()],
        ongoing: None,
        brokers_away: None,
        dump: false,
        counts,
        done: Done { seed, steps: Vec::new() },
    };
    round.start(0);
    let mut published = Published::default();
    // All partitions have progress before anything is copied: a copy without it would make a replay begin it too late.
    round.ground.fixture.publish(&mut published, 40, 25);
    round.ground.fixture.until_applied(60).await;
    if round.may_stop_server() {
        round.back_up().await;
    }
    let load = Load::start(&round.ground.fixture, published, POINTS_PER_S);
    for _ in 0..STEPS {
        while !round.step().await {}
        let pause = Duration::from_millis(round.random.random_range(200..3000));
        tokio::time::sleep(pause).await;
    }
    round.check(load).await;
    true
}

#[tokio::main]
async fn main() {
    let minutes =
        std::env::var("CHAOS_MINUTES").ok().map_or(30, |text| text.parse().expect("CHAOS_MINUTES is a number"));
    let first = support::seed("chaos");
    let begun = Instant::now();
    let mut counts = Counts::default();
    let Some(mut cluster) = Cluster::start("chaos", 2).await else { return };
    for seed in first.. {
        if !round(seed, &mut cluster, &mut counts).await {
            return;
        }
        if begun.elapsed() >= Duration::from_secs(minutes * 60) {
            break;
        }
    }
    println!(
        "chaos: {} rounds, {} points, {} outages, {} workers killed, {} frozen, {} started, {} journals' copies replayed, \
         {} restores, {} outages of the brokers, {} coordinators moved, {} passwords rotated, {} restores by dump: 0 lost, 0 \
         duplicated",
        counts.rounds,
        counts.points,
        counts.outages,
        counts.kills,
        counts.freezes,
        counts.starts,
        counts.replays,
        counts.restores,
        counts.broker_outages,
        counts.coordinators,
        counts.passwords,
        counts.dumps,
    );
}
