//! `check` finds what `run` would refuse or suffer from: a table of faults, each put before both.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::fixture::{Fixture, url_with};
use crate::support::until;
use crate::support::worker::{command, text};

/// What `run` does with the fault that `check` names.
enum Run {
    /// It ends with the exit code of `check`, and names the same key or says the same.
    Refuses,
    /// It waits, and logs this.
    Logs(&'static str),
}

struct Case {
    name: &'static str,
    settings: Vec<(&'static str, String)>,
    key: &'static str,
    /// What the sentence of `check` has, a fix among it.
    words: &'static [&'static str],
    code: i32,
    run: Run,
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_each_fault_by_its_key_and_run_agrees() {
    let Some(fixture) = Fixture::new("faults", 1).await else { return };
    let Some(unmigrated) = Fixture::unmigrated("faults", 1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("file"), "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let journal = |directory: String| {
        vec![
            ("SERIES_INGEST__JOURNAL__ENABLED", "true".to_owned()),
            ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0".to_owned()),
            ("SERIES_INGEST__JOURNAL__DIRECTORY", directory),
        ]
    };
    let one = |name: &'static str, value: String| vec![(name, value)];
    let listen = "SERIES_INGEST__HTTP__LISTEN";
    let cases = [
        Case {
            name: "the journal's directory is a file",
            settings: journal(path("file")),
            key: "journal.directory",
            words: &["/file"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "the parent of the journal's directory is a file",
            settings: journal(path("file/journal")),
            key: "journal.directory",
            words: &["file/journal"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "the database is missing",
            settings: one("DATABASE_URL", url_with(&fixture.url, "not_there", None)),
            key: "database.url",
            words: &["not_there"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "the database is away",
            settings: one("DATABASE_URL", fixture.url_by(1)),
            key: "database.url",
            words: &["Connection refused"],
            code: 69,
            run: Run::Logs("the database is away"),
        },
        Case {
            name: "the tables are missing",
            settings: one("DATABASE_URL", unmigrated.url.clone()),
            key: "database.url",
            words: &["series-ingest migrate"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "the file of the password is missing",
            settings: one("SERIES_INGEST__DATABASE__PASSWORD_FILE", path("no-password")),
            key: "database.password_file",
            words: &["no-password"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "another program has the port",
            settings: one(listen, taken.local_addr().unwrap().to_string()),
            key: "http.listen",
            words: &["in use"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "the address is not of this machine",
            settings: one(listen, "192.0.2.1:9464".to_owned()),
            key: "http.listen",
            words: &["192.0.2.1:9464"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "a property that librdkafka does not know",
            settings: one("SERIES_INGEST__KAFKA__PROPERTIES__NOT_THERE", "1".to_owned()),
            key: "kafka.properties",
            words: &["not.there"],
            code: 64,
            run: Run::Refuses,
        },
        Case {
            name: "the topic of points is missing",
            settings: one("SERIES_INGEST__KAFKA__POINTS_TOPIC", format!("{}.not-there", fixture.name)),
            key: "kafka.points_topic",
            words: &["not-there", "Create it"],
            code: 64,
            run: Run::Logs("Unknown topic or partition"),
        },
        Case {
            name: "the topic of dead letters is missing",
            settings: one("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", format!("{}.no-letters", fixture.name)),
            key: "kafka.dead_letter_topic",
            words: &["no-letters", "Create it"],
            code: 64,
            // Until the first dead letter there is nothing to say.
            run: Run::Logs("series-ingest starts"),
        },
    ];
    for Case { name, settings, key, words, code, run } in cases {
        let environment = fixture.environment();
        let with_fault = |arguments: &[&str]| {
            let mut command = command(&environment);
            command.args(arguments).envs(settings.iter().map(|(name, value)| (name, value.as_str())));
            command
        };
        let output = with_fault(&["check"]).output().unwrap();
        let printed = text(&output);
        assert_eq!(output.status.code(), Some(code), "{name}: {printed}");
        let line = printed.lines().find(|line| line.trim_start().starts_with(key)).unwrap_or_default();
        for word in words {
            assert!(line.contains(word), "{name}: {word}: {printed}");
        }
        let log = path("log");
        let stderr = std::fs::File::create(&log).unwrap();
        let mut worker = with_fault(&["run"]).stderr(stderr).spawn().unwrap();
        let logged = || std::fs::read_to_string(&log).unwrap();
        match run {
            Run::Refuses => {
                until(30, &format!("{name}: run ends"), async || worker.try_wait().unwrap().is_some()).await;
                assert_eq!(worker.wait().unwrap().code(), Some(code), "{name}: {}", logged());
                let logged = logged();
                let says_the_same = logged.contains(key) || words.iter().all(|word| logged.contains(word));
                assert!(says_the_same, "{name}: {logged}");
            }
            Run::Logs(text) => {
                until(30, &format!("{name}: run logs {text}"), async || logged().contains(text)).await;
                assert!(worker.try_wait().unwrap().is_none(), "{name}: {}", logged());
                worker.kill().unwrap();
                worker.wait().unwrap();
            }
        }
    }
    unmigrated.remove().await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_alongside_a_worker_takes_its_port_for_no_problem() {
    let Some(fixture) = Fixture::new("alongside", 1).await else { return };
    let worker = fixture.worker(&[]);
    until(60, "it answers", async || worker.get("/livez").is_some()).await;
    let output =
        command(&fixture.environment()).arg("check").env("SERIES_INGEST__HTTP__LISTEN", &worker.http).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("a worker serves"), "{}", text(&output));
    drop(worker);
    fixture.remove().await;
}

/// What looks like a fault and is none: `check` has no problem with it, and `run` writes.
#[tokio::test(flavor = "multi_thread")]
async fn what_check_has_no_problem_with_run_works_with() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    std::fs::set_permissions(&journal, std::fs::Permissions::from_mode(0o770)).unwrap();
    let in_group = [
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", journal.to_str().unwrap()),
    ];
    const PLAIN: &str = "direct compress off: there is no TimescaleDB";
    // Without the extension: a schema of its name is in the way, or it was dropped.
    for (name, before, after, settings, says) in [
        ("never", "create schema _timescaledb_catalog", "", &[][..], PLAIN),
        ("dropped", "", "drop extension timescaledb cascade", &[], PLAIN),
        ("group", "", "", &in_group, "with 0 records, 0 damaged places"),
    ] {
        let Some(fixture) = Fixture::unmigrated(&format!("fine_{name}"), 1).await else { return };
        fixture.client.batch_execute(before).await.unwrap();
        fixture.migrate(&[]).await;
        fixture.client.batch_execute(after).await.unwrap();
        let output = command(&fixture.environment()).arg("check").envs(settings.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output));
        assert!(text(&output).contains(says), "{name}: {}", text(&output));
        let worker = fixture.worker(settings);
        fixture.send_point("s", 1);
        fixture.producer.flush();
        fixture.until_applied(60).await;
        until(60, &format!("{name}: ready"), async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
        assert_eq!(fixture.count_points().await, 1, "{name}");
        drop(worker);
        fixture.remove().await;
    }
}
