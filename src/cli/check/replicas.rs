//! The hosts of `database.read_url`.

use uuid::Uuid;

use super::Report;
use crate::config::Config;
use crate::database::Database;
use crate::database::reading::{Facts, Hosts, Role};

pub(super) async fn check(config: &Config, report: &mut Report) {
    let Some(reading) = config.database.for_reading() else { return };
    let primary = identity_of_primary(config).await;
    let hosts = Hosts::new(&reading, reading.read_max_lag_s);
    let key = hosts.key();
    for host in hosts.examine().await {
        match host.facts {
            Ok(facts) => {
                report.say("replica", format_args!("{}: {}", host.place, facts.role.describe()));
                if let Some(text) = fault(config, &facts, primary) {
                    report.problem(key, format_args!("{}: {text}", host.place));
                }
            }
            Err(text) => report.unreachable(key, format_args!("{}: {text}", host.place)),
        }
    }
}

/// `None` if it is not known: that is reported elsewhere.
async fn identity_of_primary(config: &Config) -> Option<Uuid> {
    let database = Database::new(config).ok()?;
    let identity = database.identify().await.ok().flatten();
    database.close();
    identity
}

fn fault(config: &Config, facts: &Facts, primary: Option<Uuid>) -> Option<String> {
    let max = config.database.read_max_lag_s;
    match (facts.database, primary) {
        _ if !facts.has_tables => Some(format!(
            "the schema {:?} has no tables there: name the database of database.url, or wait until the standby has them",
            config.database.schema
        )),
        (Some(here), Some(there)) if here != there => {
            Some(format!("is another database ({here}) than that of database.url ({there}): name a replica of it"))
        }
        _ => match facts.role {
            Role::Standby { lag_s } if max > 0 && lag_s.is_none_or(|lag| lag > max as f64) => {
                Some(format!("is not read: it is {}, and database.read_max_lag_s is {max}", facts.role.describe()))
            }
            Role::Standby { .. } | Role::Primary => None,
        },
    }
}
