//! The pipeline and the database that a member of a consumer group works for, as its client id says. Workers of two pipelines,
//! or of two databases, must not share a group: each would read some of the partitions, and none would read all.

use std::fmt;

use uuid::Uuid;

use crate::config::Kafka;

/// The prefix of the client ids of this program's workers.
const PROGRAM: &str = "series-ingest";
/// Stands for a database that was not known when the worker joined.
const UNKNOWN: &str = "-";
/// The property for the client id.
const PROPERTY: &str = "client.id";

/// A worker, as its group identifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pipeline: String,
    /// The first digits of the identity that `migrate` has given to the database; `None` if it is not known.
    database: Option<String>,
}

impl Member {
    /// A worker of this pipeline and this database.
    pub fn new(pipeline: &str, database: Option<Uuid>) -> Self {
        let short = |id: Uuid| id.simple().to_string().chars().take(8).collect();
        Self { pipeline: pipeline.to_owned(), database: database.map(short) }
    }

    /// Returns `true` if its name contains the database that it works for.
    pub fn knows_database(&self) -> bool {
        self.database.is_some()
    }

    /// The client id that it has in the group, unless the operator has set one.
    pub(super) fn client_id(&self, kafka: &Kafka) -> Option<String> {
        let is_set = kafka.properties().any(|(name, _)| name == PROPERTY);
        let database = self.database.as_deref().unwrap_or(UNKNOWN);
        (!is_set).then(|| format!("{PROGRAM}/{}/{database}", self.pipeline))
    }

    /// The worker with this client id; `None` if the client id is not a worker's.
    fn parse(client_id: &str) -> Option<Self> {
        let (pipeline, database) = client_id.strip_prefix(PROGRAM)?.strip_prefix('/')?.rsplit_once('/')?;
        let database = (database != UNKNOWN).then(|| database.to_owned());
        Some(Self { pipeline: pipeline.to_owned(), database })
    }

    /// Another member of the group, if it is known to work for another pipeline or database.
    pub(super) fn stranger(&self, client_id: &str) -> Option<Self> {
        let other = Self::parse(client_id)?;
        let differs = |(ours, theirs)| ours != theirs;
        let elsewhere = self.database.as_ref().zip(other.database.as_ref()).is_some_and(differs);
        (other.pipeline != self.pipeline || elsewhere).then_some(other)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline {:?}", self.pipeline)?;
        self.database.as_ref().map_or(Ok(()), |database| write!(f, " of the database {database}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn kafka(environment: &[(&str, &str)]) -> Kafka {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Config::load(None, environment.collect::<Vec<_>>()).unwrap().kafka
    }

    #[test]
    fn members_of_other_pipelines_and_databases_are_strangers() {
        let (a, b) = (Uuid::from_u128(0xaaaa_aaaa << 96), Uuid::from_u128(0xbbbb_bbbb << 96));
        let id = |pipeline, database| Member::new(pipeline, database).client_id(&kafka(&[])).unwrap();
        assert_eq!(id("default", Some(a)), "series-ingest/default/aaaaaaaa");
        let own = Member::new("a/b", Some(a));
        for (client_id, is_stranger) in [
            (id("a/b", Some(a)), false),
            (id("a/b", None), false),
            (id("a/b", Some(b)), true),
            (id("a", Some(a)), true),
            (id("a", None), true),
            ("series-ingest".to_owned(), false),
            ("rdkafka".to_owned(), false),
        ] {
            assert_eq!(own.stranger(&client_id).is_some(), is_stranger, "{client_id}");
        }
        assert!(Member::new("a/b", None).stranger(&id("a/b", Some(b))).is_none());
        assert_eq!(own.to_string(), "pipeline \"a/b\" of the database aaaaaaaa");
    }

    #[test]
    fn an_operators_client_id_stays() {
        let kafka = kafka(&[("SERIES_INGEST__KAFKA__PROPERTIES__CLIENT_ID", "mine")]);
        assert_eq!(Member::new("default", None).client_id(&kafka), None);
    }
}
