//! What an operator could do better, from the catalog and the statistics of the server.
//!
//! Each rule is one statement, whose rows are the findings. A row has `what` and `change` as texts, and
//! figures as all other columns. A rule never guesses: what this role may not see, or the server does not record, is said.
//!
//! - `server`: what the server has, and the names in the statements.
//! - `chunks`: the length of chunks; `locks`: their number.
//! - `indexes`: those that are not read, or are bloated; `profile`: those of the other profile.
//! - `late_points`: points that come into compressed chunks.
//! - `vacuum`, `statistics`: what autovacuum has not done.
//! - `identity`: numbers that end; `statements`: what takes long.

mod chunks;
mod identity;
mod indexes;
mod late_points;
mod locks;
mod profile;
mod server;
mod statements;
mod statistics;
mod vacuum;

use std::time::Duration;

use serde_json::{Map, Value};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::Error;
use crate::config;
use crate::database::{self, Step, answered};
use server::Server;

const STEP: Step = Step::Other("examine the database");
/// How much longer than the server's own limit an answer may take before we call the server frozen.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Something that could be better.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// What it is.
    pub what: String,
    /// The figures, by name.
    pub figures: Map<String, Value>,
    /// The statement that shows it, complete.
    pub sql: String,
    /// What to do: SQL, a command, or a key of the configuration.
    pub change: String,
}

/// A rule that was not examined as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// The rule's name.
    pub rule: &'static str,
    /// The reason.
    pub why: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Advice {
    /// The database and the server, in words.
    pub place: String,
    /// Number of rules that were examined.
    pub examined: usize,
    /// The findings.
    pub findings: Vec<Finding>,
    /// The rules that were not examined, or not as a whole.
    pub unseen: Vec<Unseen>,
}

/// What a rule needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Only the tables.
    Tables,
    /// The points as a hypertable.
    Hypertable,
    /// The extension `pg_stat_statements`.
    Statements,
}

/// One statement whose rows are findings.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    need: Need,
    /// The statement, with the names in braces that [`Server::fill`] knows.
    sql: &'static str,
    /// A statement whose rows are reasons why something is not visible to this role.
    hidden: Option<&'static str>,
}

const RULES: [Rule; 13] = [
    chunks::TOO_LARGE,
    chunks::TOO_SMALL,
    locks::TOO_FEW,
    indexes::NOT_READ,
    indexes::BLOATED,
    profile::STANDARD,
    profile::THROUGHPUT,
    late_points::LATE,
    vacuum::DEAD_ROWS,
    vacuum::WRAPAROUND,
    statistics::MISSING,
    identity::ENDS,
    statements::SLOW,
];

/// Examines the database of `database.url`.
///
/// # Errors
/// If the server does not answer, or the tables are missing.
pub async fn advise(settings: &config::Database, progress: &(impl Fn(usize, usize) + Sync)) -> Result<Advice, Error> {
    let client = database::connect(settings).await?;
    let session = Session { client, limit: Duration::from_millis(settings.statement_timeout_ms) + ANSWER_MARGIN };
    let sql = format!("set statement_timeout = {}", settings.statement_timeout_ms);
    session.client.batch_execute(&sql).await.map_err(|source| database::Error::Server { step: STEP, source })?;
    let server = Server::of(&session, &settings.schema).await?;
    let mut advice = Advice { place: server.describe(), ..Advice::default() };
    for (at, rule) in RULES.iter().enumerate() {
        progress(at, RULES.len());
        if rule.need == Need::Statements && server.statements.is_none() {
            let why = "the extension pg_stat_statements is not in this database".to_owned();
            advice.unseen.push(Unseen { rule: rule.name, why });
            continue;
        }
        if server.has(rule.need) {
            session.examine(rule, &server, &mut advice).await?;
        }
    }
    Ok(advice)
}

struct Session {
    client: Client,
    limit: Duration,
}

impl Session {
    async fn examine(&self, rule: &Rule, server: &Server, advice: &mut Advice) -> Result<(), Error> {
        let sql = server.fill(rule.sql);
        let asked = format!("select to_jsonb(finding)::text from ({sql}) as finding");
        let rows = match self.texts(&asked).await {
            Ok(rows) => rows,
            Err(error) => {
                let Some(why) = reason(&error) else { return Err(error.into()) };
                advice.unseen.push(Unseen { rule: rule.name, why });
                return Ok(());
            }
        };
        advice.examined += 1;
        for row in rows {
            let unexpected = |error| database::Error::Unexpected(format!("{}: {error}", rule.name));
            let mut figures: Map<String, Value> = serde_json::from_str(&row).map_err(unexpected)?;
            let mut text = |name| match figures.remove(name) {
                Some(Value::String(text)) => text,
                _ => String::new(),
            };
            let (what, change) = (text("what"), text("change"));
            advice.findings.push(Finding { rule: rule.name, what, figures, sql: sql.clone(), change });
        }
        if let Some(hidden) = rule.hidden {
            let reasons = self.texts(&server.fill(hidden)).await?;
            advice.unseen.extend(reasons.into_iter().map(|why| Unseen { rule: rule.name, why }));
        }
        Ok(())
    }

    async fn rows(&self, sql: &str) -> Result<Vec<Row>, database::Error> {
        answered(STEP, self.limit, self.client.query(sql, &[])).await
    }

    async fn texts(&self, sql: &str) -> Result<Vec<String>, database::Error> {
        Ok(self.rows(sql).await?.iter().map(|row| row.get(0)).collect())
    }
}

/// Why a statement shows nothing; `None` if that is a failure.
fn reason(error: &database::Error) -> Option<String> {
    let answer = error.from_server()?;
    match *answer.code() {
        SqlState::INSUFFICIENT_PRIVILEGE => Some(format!("this role may not see it: {}", answer.message())),
        SqlState::QUERY_CANCELED => Some("it takes longer than database.statement_timeout_ms".to_owned()),
        // pg_stat_statements, without its library.
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => Some(answer.message().to_owned()),
        _ => None,
    }
}
