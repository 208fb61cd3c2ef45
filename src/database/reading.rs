//! Connections of commands that only read: to the hosts of `database.read_url`, and to `database.url`.

use std::time::Duration;

use tokio_postgres::Client;
use uuid::Uuid;

use super::connection::answer::answered;
use super::connection::connector::{Connector, Failed, Made};
use super::connection::options::connection_config;
use super::connection::step::Step;
use super::error::Error;
use super::schema::prepare;
use crate::config;

const STEP: Step = Step::Other("ask whether the server is a standby");
/// `true` for a standby; its lag in seconds, NULL if that is not known; `true` if it has the tables. The lag is the age of the
/// newest transaction that the standby has applied, or 0 if it has applied all of a primary to which it is connected.
const STANDBY: &str = "select pg_is_in_recovery(),
    case when not pg_is_in_recovery() then null
         when pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() and exists (select from pg_stat_wal_receiver) then 0
         else greatest(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()), 0) end::float8,
    to_regclass('ingest_database') is not null";

/// Maximum number of interruptions of new sessions in a row.
const MAX_INTERRUPTIONS: usize = 8;

/// The role of a server in replication.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// A server that takes writes, or could.
    Primary,
    /// A standby.
    Standby {
        /// The age of the newest transaction that it has applied, in seconds, or 0 if it has all; `None` if that is not known.
        lag_s: Option<f64>,
    },
}

impl Role {
    /// The role in words.
    pub fn describe(self) -> String {
        match self {
            Self::Primary => "not a standby".to_owned(),
            Self::Standby { lag_s: Some(seconds) } => format!("a standby, lag {seconds:.1} s"),
            Self::Standby { lag_s: None } => "a standby, lag unknown".to_owned(),
        }
    }
}

/// A server that can be read.
#[derive(Debug)]
pub struct Reading {
    /// The connection.
    pub client: Client,
    /// The host with its port and address.
    pub place: String,
    /// What the server is.
    pub role: Role,
}

/// The hosts of one URL.
#[derive(Debug)]
pub struct Hosts {
    settings: config::Database,
    connector: Connector,
    max_lag_s: Option<f64>,
}

impl Hosts {
    /// The hosts of the URL of these settings; a standby with a lag above `max_lag_s` is not read, unless that is 0.
    pub fn new(settings: &config::Database, max_lag_s: u64) -> Self {
        let max_lag_s = (max_lag_s > 0).then_some(max_lag_s as f64);
        Self { settings: settings.clone(), connector: Connector::new(settings), max_lag_s }
    }

    /// The key of the URL, for messages.
    pub fn key(&self) -> &'static str {
        self.settings.url_key()
    }

    /// Connects to the first host that can be read.
    ///
    /// # Errors
    /// If there is none: each address with how it ended; or if the configuration is wrong.
    pub async fn connect(&self) -> Result<Reading, Error> {
        connection_config(&self.settings)?;
        // The hosts that answer, and cannot be read.
        let mut refused: Vec<String> = Vec::new();
        let mut reasons: Vec<String> = Vec::new();
        let mut interruptions = 0;
        let source = loop {
            let made = match self.connector.connect_to_one(None).await {
                Ok(made) => made,
                Err(Failed { source, tried }) => {
                    reasons.push(tried);
                    break Some(source);
                }
            };
            let place = made.place.clone();
            if refused.contains(&place) {
                // All others have been tried.
                reasons.extend(made.tried);
                break None;
            }
            match self.prepared(made).await {
                Ok(reading) => return Ok(reading),
                Err(error @ (Error::SharedSession(_) | Error::Tls(_))) => return Err(error),
                // A new session is interrupted like any other.
                Err(error)
                    if error.interruption() == Some(Interruption::Recovery) && interruptions < MAX_INTERRUPTIONS =>
                {
                    interruptions += 1;
                }
                Err(error) => {
                    self.connector.put_last(&place);
                    reasons.push(format!("{place}: {error}"));
                    refused.push(place);
                }
            }
        };
        let tried = reasons.join("; ");
        Err(match source {
            Some(source) => Error::Connect { source, tried },
            None => Error::NotReadable(tried),
        })
    }

    async fn prepared(&self, made: Made) -> Result<Reading, Error> {
        prepare(&made, &self.settings, &self.connector).await?;
        let (role, _) = self.ask(&made.client).await?;
        if let (Role::Standby { lag_s }, Some(max)) = (role, self.max_lag_s)
            && lag_s.is_none_or(|lag| lag > max)
        {
            let text = format!("{}, and database.read_max_lag_s is {max}", role.describe());
            return Err(Error::NotReadable(text));
        }
        Ok(Reading { client: made.client, place: made.place, role })
    }

    /// Has a host tried after the others for a while.
    pub fn put_last(&self, place: &str) {
        self.connector.put_last(place);
    }

    /// What the server is, and whether it has the table with the database's identity.
    async fn ask(&self, client: &Client) -> Result<(Role, bool), Error> {
        let limit = Duration::from_millis(self.settings.connect_timeout_ms);
        let row = answered(STEP, limit, client.query_one(STANDBY, &[])).await?;
        let role = if row.get(0) { Role::Standby { lag_s: row.get(1) } } else { Role::Primary };
        Ok((role, row.get(2)))
    }

    /// Asks each address of each host.
    pub async fn examine(&self) -> Vec<Host> {
        let mut hosts = Vec::new();
        for (place, made) in self.connector.connect_to_each().await {
            let facts = match made {
                Ok(client) => self.facts(&client).await.map_err(|error| error.to_string()),
                Err(text) => Err(text),
            };
            hosts.push(Host { place, facts });
        }
        hosts
    }

    async fn facts(&self, client: &Client) -> Result<Facts, Error> {
        let limit = Duration::from_millis(self.settings.connect_timeout_ms);
        let sql = format!("set search_path = {}", super::quoted_name(&self.settings.schema));
        let within = async {
            client.batch_execute(&sql).await.map_err(|source| Error::Server { step: STEP, source })?;
            let (role, has_tables) = self.ask(client).await?;
            let database = match has_tables {
                // A role without the right to see it reads nevertheless.
                true => client.query_opt("select id from ingest_database", &[]).await.ok().flatten(),
                false => None,
            };
            Ok(Facts { role, has_tables, database: database.map(|row| row.get(0)) })
        };
        tokio::time::timeout(limit, within)
            .await
            .map_err(|_| Error::TimedOut { step: STEP, seconds: limit.as_secs() })?
    }
}

/// A host, and what it answers.
#[derive(Debug)]
pub struct Host {
    /// The host with its port and address.
    pub place: String,
    /// What it says of itself, or why it does not.
    pub facts: Result<Facts, String>,
}

/// What a server says of itself.
#[derive(Debug)]
pub struct Facts {
    /// What it is.
    pub role: Role,
    /// `true` if it has the tables in `database.schema`.
    pub has_tables: bool,
    /// The database's identity; `None` if this role may not see it.
    pub database: Option<Uuid>,
}

/// Why a read was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// The standby had to apply what the query would not have survived.
    Recovery,
    /// The server, or the connection, has ended or hangs.
    Lost,
}

impl Error {
    /// How a read was interrupted; `None` if repeating it elsewhere or later does not help.
    pub fn interruption(&self) -> Option<Interruption> {
        let code = match self {
            Self::TimedOut { .. } => return Some(Interruption::Lost),
            Self::Server { source, .. } => source.code().map(|code| code.code().to_owned()),
            _ => return None,
        };
        match code.as_deref() {
            None => Some(Interruption::Lost),
            // PostgreSQL's ProcessRecoveryConflictInterrupt: a query or a session that has to end, and a deadlock.
            Some("40001" | "40P01") => Some(Interruption::Recovery),
            Some("25P03" | "25P04") => Some(Interruption::Lost),
            // Not 57014: the query was canceled by an operator, or takes too long.
            Some(code) if code.starts_with("57P") || code.starts_with("08") => Some(Interruption::Lost),
            Some(_) => None,
        }
    }
}
