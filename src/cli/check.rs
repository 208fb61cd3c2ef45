//! `check`: the configuration and both servers.

use std::path::Path;
use std::sync::Arc;

use super::{Failure, print_line};
use crate::config::{self, Config};
use crate::database::{self, Database, schema};
use crate::journal::{Inspection, RealFiles};
use crate::kafka::lookup::Lookup;

pub(super) async fn run(config: &Arc<Config>) -> Result<(), Failure> {
    config.require_database()?;
    print_line("configuration: fine");
    let mut problems = Vec::new();
    check_database(config, &mut problems).await;
    check_kafka(config, &mut problems).await?;
    check_journal(&config.journal, &mut problems);
    if problems.is_empty() {
        return Ok(());
    }
    let unreachable = problems.iter().any(|problem| problem.unreachable);
    let text: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect();
    let count = if text.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", text.len()) };
    let text = format!("{count}\n  {}", text.join("\n  "));
    Err(if unreachable { Failure::Unreachable(text) } else { Failure::Usage(text) })
}

struct Problem {
    key: &'static str,
    text: String,
    unreachable: bool,
}

async fn check_database(config: &Config, problems: &mut Vec<Problem>) {
    match schema::describe_server(&config.database).await {
        Err(error) => {
            let text = format!("{error}. Is the server up, and are host, port, user and password right?");
            problems.push(Problem { key: "database.url", text, unreachable: true });
            return;
        }
        Ok(server) => {
            let timescaledb = server.timescaledb.map_or("no TimescaleDB".to_owned(), |v| format!("TimescaleDB {v}"));
            print_line(format_args!(
                "database: PostgreSQL {}, {timescaledb}, {}",
                server.version,
                server.edition.as_str()
            ));
        }
    }
    match schema::verify(config).await {
        Ok(_) => {
            print_line("schema: up to date");
            check_table(config, problems).await;
        }
        Err(error) => problems.push(Problem { key: "database.url", text: error.to_string(), unreachable: false }),
    }
}

async fn check_table(config: &Config, problems: &mut Vec<Problem>) {
    let answers = async {
        let database = Database::new(config)?;
        Ok::<_, database::Error>((database.reference().await?, database.look_at_table().await?))
    };
    match answers.await {
        Ok((reference, table)) => {
            print_line(format_args!("series: {}", reference.describe()));
            let direct_compress = table.direct_compress_text();
            print_line(format_args!("points: profile {}; direct compress {direct_compress}", table.profile));
        }
        Err(error) => problems.push(Problem { key: "database.url", text: error.to_string(), unreachable: false }),
    }
}

/// The journal's directory, beside a worker that may have it.
fn check_journal(journal: &config::Journal, problems: &mut Vec<Problem>) {
    if !journal.enabled {
        print_line("journal: none; reading pauses while the database is away");
        return;
    }
    let directory = Path::new(&journal.directory);
    // What cannot be looked at is told by the attempt to open it.
    if matches!(directory.try_exists(), Ok(false)) {
        print_line(format_args!("journal: {} will be made", directory.display()));
        return;
    }
    match Inspection::open(RealFiles, directory) {
        Ok(found) => print_line(format_args!(
            "journal: {} with {} records, {} damaged places",
            directory.display(),
            found.records().count(),
            found.damage().len()
        )),
        Err(error) => {
            problems.push(Problem { key: "journal.directory", text: error.to_string(), unreachable: false });
        }
    }
}

async fn check_kafka(config: &Arc<Config>, problems: &mut Vec<Problem>) -> Result<(), Failure> {
    let config = Arc::clone(config);
    let found = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        let lookup = match Lookup::new(&config.kafka) {
            Ok(lookup) => lookup,
            Err(error) => {
                let text = format!("librdkafka refuses it: {error}");
                return vec![Problem { key: "kafka.properties", text, unreachable: false }];
            }
        };
        let Some(cluster) = lookup.cluster_id() else {
            let problem = match lookup.refused() {
                Some(text) => Problem { key: "kafka.properties", text, unreachable: true },
                None => {
                    let text = format!(
                        "{} does not answer. Is the broker up, and are addresses and security settings right?",
                        config.kafka.brokers
                    );
                    Problem { key: "kafka.brokers", text, unreachable: true }
                }
            };
            return vec![problem];
        };
        print_line(format_args!("kafka: cluster {cluster}"));
        let topics = [
            ("kafka.series_topic", &config.kafka.series_topic),
            ("kafka.points_topic", &config.kafka.points_topic),
            ("kafka.dead_letter_topic", &config.kafka.dead_letter_topic),
        ];
        for (key, topic) in topics.into_iter().filter(|(_, topic)| !topic.is_empty()) {
            match lookup.topics(&[topic]) {
                Ok(topics) => {
                    for topic in topics {
                        let id =
                            topic.id.as_deref().unwrap_or("none: a topic made anew cannot be told from the old one");
                        print_line(format_args!("topic {}: {} partitions, id {id}", topic.name, topic.partitions));
                        // The dead-letter topic is written only, and Kafka is not asked for that right.
                        if topic.may_read == Some(false) && key != "kafka.dead_letter_topic" {
                            let text = format!("topic {}: this user may not READ it: allow it", topic.name);
                            found.push(Problem { key, text, unreachable: false });
                        }
                    }
                }
                Err(error) => {
                    let text = format!("topic {topic}: {error}. Create it, or allow this user to read it");
                    found.push(Problem { key, text, unreachable: false });
                }
            }
        }
        let group = &config.kafka.group_id;
        if let Err(error) = lookup.committed(&[(config.kafka.points_topic.clone(), 0)])
            && let Some(text) = lookup.refusal(&error)
        {
            found.push(Problem { key: "kafka.group_id", text: format!("group {group}: {text}"), unreachable: false });
        }
        found
    });
    problems.extend(found.await.map_err(|error| Failure::Internal(error.to_string()))?);
    Ok(())
}
