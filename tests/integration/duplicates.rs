//! Points that come twice in different messages, by `points.on_duplicate`.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use series_ingest::database::schema;
use series_ingest::database::schema::roles;

#[cfg(feature = "planted-bugs")]
use crate::claims::plant;
use crate::support::data::bits;
use crate::support::fixture::{Fixture, connect};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::worker::{run, text};
use crate::support::{seed, servers, until};

const PARTITIONS: i32 = 3;
const SERIES: [&str; 3] = ["a", "b", "c"];
const COLUMNS: [&str; 2] = ["x", "y"];
const TIMES: i64 = 40;
const FIRST_US: i64 = 1_735_689_600_000_000;

/// Series, column, microseconds.
type Key = (String, String, i64);

/// Time, offset, partition: which message is the later one.
type Version = (i64, i64, i32);

/// What was published, as messages and their values of each point.
#[derive(Debug)]
struct Model {
    /// About now: Kafka removes what is old.
    start_ms: i64,
    next_offset: HashMap<i32, i64>,
    /// All values that messages have for a point, each with its message and its place in there.
    values: HashMap<Key, Vec<(Version, usize, u64)>>,
}

impl Model {
    /// A message with random points, many of them also in others.
    fn publish_random(&mut self, fixture: &Fixture, random: &mut StdRng) {
        let partition = random.random_range(0..PARTITIONS);
        // Kafka's times go up and down, and often are the same.
        let time_ms = self.start_ms + random.random_range(0..50);
        let offset = self.next_offset.entry(partition).or_default();
        let version = (time_ms, *offset, partition);
        *offset += 1;
        let series = SERIES[random.random_range(0..SERIES.len())];
        let count = random.random_range(1..20);
        let times: Vec<i64> = (0..count).map(|_| FIRST_US + random.random_range(0..TIMES) * 1_000_000).collect();
        let mut columns = serde_json::Map::new();
        for column in COLUMNS {
            let values: Vec<Option<f64>> =
                times.iter().map(|_| random.random_bool(0.9).then(|| random.random_range(-1e6..1e6))).collect();
            for (place, (time, value)) in times.iter().zip(&values).enumerate() {
                let known = self.values.entry((series.to_owned(), column.to_owned(), *time)).or_default();
                known.push((version, place, bits(*value)));
            }
            columns.insert(column.to_owned(), serde_json::json!(values));
        }
        let message = serde_json::json!({
            "type": "point-batch", "time_series_id": series, "timestamp_unit": "us", "timestamps": times, "columns": columns
        });
        let payload = message.to_string();
        fixture.producer.send_at(&fixture.points_topic, partition, "k", Some(payload.as_bytes()), time_ms);
    }

    /// What each point's value is, where the later message wins.
    fn latest(&self) -> HashMap<Key, u64> {
        let latest = |values: &Vec<(Version, usize, u64)>| values.iter().max().unwrap().2;
        self.values.iter().map(|(key, values)| (key.clone(), latest(values))).collect()
    }
}

/// The stored points; fails if one is a duplicate.
async fn stored(fixture: &Fixture) -> HashMap<Key, u64> {
    let mut stored = HashMap::new();
    for (series, column, time, value) in fixture.stored().await {
        let key = (series, column, time);
        assert!(stored.insert(key.clone(), value).is_none(), "{key:?} is a duplicate");
    }
    stored
}

/// A migrated fixture for this way; `None` where there are no servers.
async fn bed_for(test: &str, on_duplicate: &str) -> Option<FixtureWithProxy> {
    let away = FixtureWithProxy::unmigrated(test, PARTITIONS).await?;
    away.fixture.migrate(&setting(on_duplicate)).await;
    Some(away)
}

fn setting(on_duplicate: &str) -> [(&str, &str); 1] {
    [("SERIES_INGEST__POINTS__ON_DUPLICATE", on_duplicate)]
}

/// Three workers, some of them killed, in outages of the database; what they have read is read again now and then.
/// `look` sees the table from time to time.
async fn through_trouble(
    away: &FixtureWithProxy,
    on_duplicate: &str,
    random: &mut StdRng,
    mut look: impl AsyncFnMut(&Fixture),
) -> Model {
    let settings = [
        setting(on_duplicate)[0],
        ("SERIES_INGEST__BATCH__LINGER_MS", "20"),
        ("SERIES_INGEST__BATCH__MAX_POINTS", "200"),
        ("SERIES_INGEST__DATABASE__WRITERS", "3"),
        ("SERIES_INGEST__DATABASE__RETRY_MIN_MS", "10"),
    ];
    let start_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut model = Model { start_ms, next_offset: HashMap::new(), values: HashMap::new() };
    let mut workers: Vec<_> = (0..3).map(|number| away.worker(&format!("journal-{number}"), &settings)).collect();
    for round in 0..6 {
        for _ in 0..80 {
            model.publish_random(&away.fixture, random);
        }
        away.fixture.producer.flush();
        match round {
            // What comes from the journal comes later than what is new.
            1 | 3 => {
                away.proxy.refuse(true);
                for _ in 0..80 {
                    model.publish_random(&away.fixture, random);
                }
                away.fixture.producer.flush();
                until(30, "a worker journals", async || workers.iter().any(|worker| worker.is_mode("journaling")))
                    .await;
                let victim = random.random_range(0..workers.len());
                workers[victim].kill();
                away.proxy.refuse(false);
                workers[victim] = away.worker(&format!("journal-{victim}"), &settings);
            }
            // An old message is written again, and by another worker.
            2 | 4 => {
                away.fixture.until_applied(60).await;
                look(&away.fixture).await;
                workers.iter_mut().for_each(|worker| worker.kill());
                let back = "update ingest_progress set next_offset = greatest(next_offset - 30, 0), ahead = '{}'";
                away.fixture.client.execute(back, &[]).await.unwrap();
                workers = (0..3).map(|number| away.worker(&format!("journal-{number}"), &settings)).collect();
            }
            _ => tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await,
        }
    }
    away.fixture.until_applied(90).await;
    for worker in &workers {
        worker.until_mode("streaming").await;
    }
    look(&away.fixture).await;
    assert_eq!(away.fixture.count("select count(*) from ingest_dead_letter").await, 0, "no dead letters");
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_points_have_the_value_of_the_latest_message_in_whatever_order_they_come() {
    let Some(away) = bed_for("duplicates_replace", "replace").await else { return };
    let mut random = StdRng::seed_from_u64(seed("replaced_points"));
    let model = through_trouble(&away, "replace", &mut random, async |_| {}).await;
    assert!(model.values.values().map(Vec::len).max().unwrap() > 10, "there are many duplicates");
    let (stored, latest) = (stored(&away.fixture).await, model.latest());
    let wrong: Vec<_> = latest.iter().filter(|(key, value)| stored.get(*key) != Some(*value)).take(3).collect();
    assert!(wrong.is_empty() && stored.len() == latest.len(), "{wrong:?}; {} of {}", stored.len(), latest.len());
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ignored_points_stay_as_they_were_stored_first() {
    let Some(away) = bed_for("duplicates_ignore", "ignore").await else { return };
    let mut random = StdRng::seed_from_u64(seed("ignored_points"));
    let mut seen: HashMap<Key, u64> = HashMap::new();
    let model = through_trouble(&away, "ignore", &mut random, async |fixture| {
        let now = stored(fixture).await;
        for (key, value) in &seen {
            assert_eq!(now.get(key), Some(value), "{key:?} has changed");
        }
        seen = now;
    })
    .await;
    assert_eq!(seen.len(), model.values.len());
    for (key, value) in &seen {
        assert!(model.values[key].iter().any(|(_, _, published)| published == value), "{key:?} is {value}");
    }
    away.remove().await;
}

/// What is stored of messages with different values for the same times, in one batch and one after the other, the last with
/// an older Kafka time; and again after all of them were read a second time.
async fn stored_of_different_values(fixture: &Fixture, on_duplicate: &str, bug: &str) -> [Vec<(i64, f64)>; 2] {
    let settings = [setting(on_duplicate)[0], ("SERIES_INGEST_PLANTED_BUGS", bug)];
    let start_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let send = |ms: i64, times: &[i64], value: i64| {
        let values = vec![value; times.len()];
        let message = serde_json::json!({"time_series_id": "s", "timestamps": times, "columns": {"a": values}});
        fixture.producer.send_at(&fixture.points_topic, 0, "k", Some(message.to_string().as_bytes()), start_ms + ms);
        fixture.producer.flush();
    };
    let values = async || {
        let points = stored(fixture).await.into_iter();
        let mut values: Vec<(i64, f64)> =
            points.map(|((_, _, us), bits)| (us / 1_000_000, f64::from_bits(bits))).collect();
        values.sort_by_key(|(time, _)| *time);
        values
    };
    send(1, &[1, 2], 1);
    send(2, &[2, 3], 2);
    let mut worker = fixture.worker(&settings);
    fixture.until_applied(60).await;
    for (ms, times, value) in [(3, &[3, 4][..], 3), (0, &[1, 4, 5], 4)] {
        send(ms, times, value);
        fixture.until_applied(60).await;
    }
    let first = values().await;
    worker.kill();
    fixture.client.batch_execute("update ingest_progress set next_offset = 0, ahead = '{}'").await.unwrap();
    let worker = fixture.worker(&settings);
    fixture.until_applied(60).await;
    drop(worker);
    [first, values().await]
}

const FIRST_STAYS: [(i64, f64); 5] = [(1, 1.0), (2, 1.0), (3, 2.0), (4, 3.0), (5, 4.0)];
const LATEST_WINS: [(i64, f64); 5] = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0), (5, 4.0)];

#[tokio::test(flavor = "multi_thread")]
async fn of_different_values_the_first_stays_or_the_latest_wins() {
    for (on_duplicate, expected) in [("ignore", FIRST_STAYS), ("replace", LATEST_WINS)] {
        let Some(fixture) = Fixture::unmigrated(&format!("duplicates_values_{on_duplicate}"), 1).await else { return };
        fixture.migrate(&setting(on_duplicate)).await;
        let found = stored_of_different_values(&fixture, on_duplicate, "").await;
        assert_eq!(found, [expected.to_vec(), expected.to_vec()], "{on_duplicate}");
        fixture.remove().await;
    }
}

/// That a fault of the program, or of a function in the database, is seen.
#[cfg(feature = "planted-bugs")]
async fn assert_caught(
    on_duplicate: &str,
    expected: [(i64, f64); 5],
    bug: &str,
    in_database: Option<(&str, &str, &str)>,
) {
    let Some(fixture) = Fixture::unmigrated(&format!("duplicates_bug_{on_duplicate}"), 1).await else { return };
    fixture.migrate(&setting(on_duplicate)).await;
    if let Some((function, good, bad)) = in_database {
        plant(&fixture.client, function, good, bad).await;
    }
    let found = stored_of_different_values(&fixture, on_duplicate, bug).await;
    assert_ne!(found, [expected.to_vec(), expected.to_vec()], "the bug is caught");
    fixture.remove().await;
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_of_a_batch_the_other_end_is_kept() {
    assert_caught("ignore", FIRST_STAYS, "duplicates-keep-other-end", None).await;
    assert_caught("replace", LATEST_WINS, "duplicates-keep-other-end", None).await;
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_what_is_there_does_not_stay() {
    let bad = "do update set value = excluded.value";
    assert_caught("ignore", FIRST_STAYS, "", Some(("ingest_add_points", "do nothing", bad))).await;
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_what_is_written_last_wins() {
    let (good, bad) = ("where (excluded.message_ms,", "where true or (excluded.message_ms,");
    assert_caught("replace", LATEST_WINS, "", Some(("ingest_replace_points", good, bad))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_counted_and_appended_where_nothing_is_said() {
    for (on_duplicate, rows, duplicates) in [("append", 6, 0.0), ("ignore", 3, 3.0), ("replace", 3, 3.0)] {
        let test = format!("duplicates_counted_{on_duplicate}");
        let Some(fixture) = Fixture::unmigrated(&test, 1).await else { return };
        fixture.migrate(&setting(on_duplicate)).await;
        // One batch with the same message twice.
        let message = r#"{"type":"point-batch","time_series_id":"s","timestamps":[1,2,3],"columns":{"a":[1,null,3]}}"#;
        for _ in 0..2 {
            fixture.producer.send(&fixture.points_topic, 0, "s", Some(message.as_bytes()));
        }
        fixture.producer.flush();
        let worker = fixture.worker(&setting(on_duplicate));
        fixture.until_applied(60).await;
        assert_eq!(fixture.count_points().await, rows, "{on_duplicate}");
        let metric = "series_ingest_points_duplicate_total";
        until(10, "they are counted", async || worker.metric(metric) == Some(duplicates)).await;
        drop(worker);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refused_takes_no_other_with_it_in_either_way() {
    for on_duplicate in ["ignore", "replace"] {
        let test = format!("duplicates_refused_{on_duplicate}");
        let Some(fixture) = Fixture::unmigrated(&test, 1).await else { return };
        fixture.migrate(&setting(on_duplicate)).await;
        let check = "alter table time_series_data_points add constraint positive check (value >= 0)";
        fixture.client.batch_execute(check).await.unwrap();
        for number in 0..200 {
            // The last time of each message is the first of the next one, and the refused one has its own.
            let (first, value) = if number == 77 { (775, -1) } else { (number * 10, 1) };
            let message = format!(
                r#"{{"type":"point-batch","time_series_id":"s","timestamps":[{first},{}],"columns":{{"a":[{value},5]}}}}"#,
                (number + 1) * 10
            );
            fixture.producer.send(&fixture.points_topic, 0, "s", Some(message.as_bytes()));
        }
        fixture.producer.flush();
        let worker = fixture.worker(&setting(on_duplicate));
        fixture.until_applied(60).await;
        // All times from 0 to 2000 by 10: those of message 77 are message 76's and 78's, too.
        assert_eq!(fixture.count_points().await, 201, "{on_duplicate}");
        let letters = "select count(*) from ingest_dead_letter where reason = 'rejected_by_database' and detail like '%positive%'";
        assert_eq!(fixture.count(letters).await, 1, "{on_duplicate}");
        drop(worker);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_sent_again_does_not_replace_what_is_newer() {
    let Some(fixture) = Fixture::unmigrated("duplicates_redrive", 1).await else { return };
    let replace = setting("replace")[0];
    fixture.migrate(&[replace]).await;
    let send = |times: &str, value: u32| {
        let message = format!(
            r#"{{"type":"point-batch","time_series_id":"s","timestamps":[{times}],"columns":{{"a":[{value}{}]}}}}"#,
            format!(",{value}").repeat(times.matches(',').count())
        );
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(message.as_bytes()));
        fixture.producer.flush();
    };
    send("1,2", 1);
    let mut worker = fixture.worker(&[replace, ("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter")]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 1);
    send("2,3", 2);
    let mut worker = fixture.worker(&[replace]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let mut environment = fixture.environment();
    environment.push((replace.0.to_owned(), replace.1.to_owned()));
    let output = run(&environment, &["dead-letter", "redrive"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let values: HashMap<i64, f64> =
        stored(&fixture).await.into_iter().map(|((_, _, us), bits)| (us / 1_000_000, f64::from_bits(bits))).collect();
    assert_eq!(values, HashMap::from([(1, 1.0), (2, 2.0), (3, 2.0)]));
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unique_index_is_required_created_and_reported() {
    let Some(fixture) = Fixture::new("duplicates_index", 1).await else { return };
    let environment = |on_duplicate: &str| {
        let mut environment = fixture.environment();
        environment.push((setting(on_duplicate)[0].0.to_owned(), on_duplicate.to_owned()));
        environment
    };
    let expect = |on_duplicate: &str, command: &str, code: i32, words: &str| {
        let output = run(&environment(on_duplicate), &[command]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{command} with {on_duplicate}: {said}");
        assert!(said.contains(words), "{command} with {on_duplicate}: {said}");
    };
    expect("ignore", "run", 64, "run `series-ingest migrate` with this setting");
    expect("replace", "check", 64, "points.on_duplicate = \"replace\" needs a unique index");
    let twice = "insert into time_series_metadata (id, name) values ('s', 's');
        insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
        values ('s', '2026-01-01', 'a', 1), ('s', '2026-01-01', 'a', 2)";
    fixture.client.batch_execute(twice).await.unwrap();
    expect("ignore", "migrate", 64, "points are there more than once");
    // The statement of docs/schema.md.
    let docs = include_str!("../../docs/schema.md");
    let (_, statement) = docs.split_once("-- Deletes all but one").expect("docs/schema.md has it");
    let (statement, _) = statement.split_once("```").unwrap();
    fixture.client.batch_execute(statement.split_once('\n').unwrap().1).await.unwrap();
    assert_eq!(fixture.count_points().await, 1);
    expect("replace", "migrate", 0, "the points have a unique index");
    expect("replace", "migrate", 0, "the migrations were applied already");
    expect("append", "run", 64, "the unique index idx_time_series_data_points_unique refuses points that come twice");
    expect("ignore", "check", 0, "schema: up to date");
    let other = |sql: &str| {
        format!("drop index if exists idx_time_series_data_points_unique; drop index if exists other; {sql}")
    };
    let on = "on time_series_data_points (\"timestamp\", column_name, time_series_id)";
    fixture.client.batch_execute(&other(&format!("create unique index other {on} include (value)"))).await.unwrap();
    expect("append", "check", 64, "the unique index other refuses");
    fixture.client.batch_execute(&other(&format!("create unique index other {on} where value > 0"))).await.unwrap();
    expect("ignore", "check", 64, "needs a unique index");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_role_may_do_what_its_setting_needs_and_no_more() {
    let Some(servers) = servers("duplicates_role") else { return };
    let Some(fixture) = Fixture::unmigrated("duplicates_role", 1).await else { return };
    let config = fixture.config(&setting("replace"));
    schema::migrate(&config).await.unwrap();
    let role = format!("{}_worker", fixture.name);
    let admin = connect(&servers.database_url).await;
    admin.batch_execute(&format!("create role {role} login")).await.unwrap();
    roles::grant(&config, &role, roles::Purpose::Worker).await.unwrap();
    let url = fixture.url.replacen("postgres@", &format!("{role}@"), 1);
    let message = r#"{"type":"point-batch","time_series_id":"s","timestamps":[1,2],"columns":{"a":[1,2]}}"#;
    for _ in 0..2 {
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(message.as_bytes()));
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[("DATABASE_URL", url.as_str()), setting("replace")[0]]);
    fixture.until_applied(60).await;
    assert_eq!(fixture.count_points().await, 2);
    drop(worker);
    let may = async |function: &str| -> bool {
        let sql = "select has_function_privilege($1, p.oid, 'execute') from pg_proc p where proname = $2";
        fixture.client.query_one(sql, &[&role, &function]).await.unwrap().get(0)
    };
    assert!(may("ingest_replace_points").await && !may("ingest_add_points").await);
    roles::grant(&fixture.config(&setting("append")), &role, roles::Purpose::Worker).await.unwrap();
    assert!(!may("ingest_replace_points").await && !may("ingest_add_points").await);
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| name != "DATABASE_URL");
    environment.push(("DATABASE_URL".to_owned(), url));
    environment.push((setting("replace")[0].0.to_owned(), "replace".to_owned()));
    let output = run(&environment, &["run"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains(&format!("migrate --worker-role {role}")), "{}", text(&output));
    fixture.client.batch_execute(&format!("drop owned by {role}")).await.unwrap();
    admin.batch_execute(&format!("drop role {role}")).await.unwrap();
    fixture.remove().await;
}
