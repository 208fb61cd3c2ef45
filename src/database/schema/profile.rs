//! The indexes and constraints of the table of points, by the catalog: its profile, and whether the server compresses a COPY
//! into it directly. [`set_profile`](super::set_profile) brings it from any state to a profile.
//!
//! - *standard*: what the migrations make.
//! - *throughput*: without the primary key, the foreign key and the two indexes that another one covers in practice. They are
//!   most of what a row costs, and a unique index or a trigger keeps the server from direct compress.

use std::sync::LazyLock;

use tokio_postgres::{Client, Row};
use tracing::{info, warn};

use super::columns::{COLUMNS, OtherType, other_type};
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::telemetry::metrics;

/// What is being done, in errors.
const STEP: Step = Step::Other("look at the table of points");

pub(super) const TABLE: &str = "time_series_data_points";
pub(super) const PRIMARY_KEY: &str = "time_series_data_points_pkey";
pub(super) const FOREIGN_KEY: &str = "time_series_data_points_time_series_id_fkey";

/// The indexes of both profiles, with their columns.
pub(super) const KEPT_INDEXES: [(&str, &str); 2] = [
    ("idx_time_series_data_points_timestamp", "\"timestamp\""),
    ("idx_time_series_data_points_series_column_time", "time_series_id, column_name, \"timestamp\""),
];

/// The indexes of the profile `standard` only.
pub(super) const COVERED_INDEXES: [(&str, &str); 2] = [
    ("idx_time_series_data_points_series_time", "time_series_id, \"timestamp\""),
    ("idx_time_series_data_points_series_column", "time_series_id, column_name"),
];

/// A set of indexes and constraints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// All that the migrations make.
    Standard,
    /// What is needed to read points, and nothing more.
    Throughput,
}

impl Profile {
    /// The profile's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Throughput => "throughput",
        }
    }
}

/// The table of points as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its profile's name, or what it lacks to have one.
    pub profile: String,
    /// The span of a chunk in microseconds if the server compresses a COPY directly, or why it does not.
    pub direct_compress: Result<i64, String>,
    /// A column that is of another type than the program writes.
    pub other_type: Option<OtherType>,
}

impl Table {
    /// Returns `true` if it has all of a profile.
    pub fn has_profile(&self) -> bool {
        [Profile::Standard, Profile::Throughput].iter().any(|profile| profile.as_str() == self.profile)
    }

    /// Reports the profile and direct compress in the log and by a metric.
    pub(in crate::database) fn report(&self, is_new: bool) {
        metrics::direct_compress(self.direct_compress.is_ok());
        let profile = &self.profile;
        let direct_compress = self.direct_compress_text();
        if is_new {
            info!(profile, direct_compress, "the table of points");
        } else {
            warn!(profile, direct_compress, "the table of points has changed");
        }
    }

    /// Describes whether the server compresses directly.
    pub fn direct_compress_text(&self) -> String {
        match &self.direct_compress {
            Ok(_) => "on".to_owned(),
            Err(reason) => format!("off: {reason}"),
        }
    }
}

/// The foreign key of the points to their series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForeignKey {
    pub(super) is_validated: bool,
    /// `true` if deleting a series deletes its points.
    pub(super) cascades: bool,
}

impl ForeignKey {
    /// That of the profile `standard`.
    pub(super) const WANTED: Self = Self { is_validated: true, cascades: true };
}

/// The catalog's state of the table of points.
#[derive(Debug)]
pub(super) struct Catalog {
    valid: Vec<String>,
    pub(super) invalid: Vec<String>,
    /// Unique indexes, and those of exclusion constraints.
    pub(super) unique: Vec<String>,
    /// Triggers, those of foreign keys by the constraint's name.
    triggers: Vec<String>,
    pub(super) foreign_key: Option<ForeignKey>,
    pub(super) timescaledb: Option<String>,
    is_community: bool,
    has_setting: bool,
    is_optimized: bool,
    other_type: Option<OtherType>,
}

/// The query for [`Catalog`].
fn catalog_sql() -> &'static str {
    static SQL: LazyLock<String> = LazyLock::new(|| format!("{CATALOG}, array({COLUMNS}) {OF_POINTS}"));
    &SQL
}

/// TimescaleDB's own trigger is that of its older versions, which keeps rows out of the hypertable's root.
const CATALOG: &str = "
    select array(select relname::text from pg_index join pg_class on pg_class.oid = indexrelid
                 where indrelid = points.oid and indisvalid),
        array(select relname::text from pg_index join pg_class on pg_class.oid = indexrelid
              where indrelid = points.oid and not indisvalid),
        array(select relname::text from pg_index join pg_class on pg_class.oid = indexrelid
              where indrelid = points.oid and (indisunique or indisexclusion) order by 1),
        array(select distinct coalesce(conname, tgname)::text
              from pg_trigger left join pg_constraint on pg_constraint.oid = tgconstraint
              where tgrelid = points.oid and tgname <> 'ts_insert_blocker' order by 1),
        (select array[convalidated, confdeltype = 'c'] from pg_constraint
         where conrelid = points.oid and conname = 'time_series_data_points_time_series_id_fkey'),
        (select extversion from pg_extension where extname = 'timescaledb'),
        current_setting('timescaledb.license', true) is not distinct from 'timescale',
        current_setting('timescaledb.enable_direct_compress_copy', true) is not null,
        current_setting('timescaledb.enable_optimizations', true) is distinct from 'off'";

const OF_POINTS: &str = "from (select 'time_series_data_points'::regclass as oid) as points";

/// The query for the setting of compression, and the span of a chunk in microseconds; no row if the points are not a
/// hypertable.
const HYPERTABLE: &str = "
    select compression_enabled, (extract(epoch from time_interval) * 1000000)::bigint
    from timescaledb_information.hypertables
    join timescaledb_information.dimensions using (hypertable_schema, hypertable_name)
    where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'
        and column_name = 'timestamp'";

impl Catalog {
    /// Reads it. Unlike [`read_catalog`], without the hypertable.
    pub(super) async fn read(client: &Client) -> Result<Self, Error> {
        let row = client.query_one(catalog_sql(), &[]).await.map_err(|source| Error::Server { step: STEP, source })?;
        Ok(Self::new(&row))
    }

    fn new(row: &Row) -> Self {
        Self {
            valid: row.get(0),
            invalid: row.get(1),
            unique: row.get(2),
            triggers: row.get(3),
            foreign_key: match row.get::<_, Option<Vec<bool>>>(4).as_deref() {
                Some(&[is_validated, cascades]) => Some(ForeignKey { is_validated, cascades }),
                _ => None,
            },
            timescaledb: row.get(5),
            is_community: row.get(6),
            has_setting: row.get(7),
            is_optimized: row.get(8),
            other_type: other_type(&row.get::<_, Vec<String>>(9)),
        }
    }

    /// Returns `true` if the index is there, and complete.
    pub(super) fn has(&self, index: &str) -> bool {
        self.valid.iter().any(|name| name == index)
    }

    /// The profile's name, or what is missing for one.
    pub(super) fn profile(&self) -> String {
        let lacks = |names: &[&'static str]| names.iter().copied().filter(|name| !self.has(name)).collect::<Vec<_>>();
        let mut of_standard = lacks(&[PRIMARY_KEY, COVERED_INDEXES[0].0, COVERED_INDEXES[1].0]);
        if self.foreign_key != Some(ForeignKey::WANTED) {
            of_standard.push(FOREIGN_KEY);
        }
        let of_both = lacks(&KEPT_INDEXES.map(|(name, _)| name));
        if of_both.is_empty() && of_standard.is_empty() {
            return Profile::Standard.as_str().to_owned();
        }
        if of_both.is_empty() && of_standard.len() == 4 && self.foreign_key.is_none() {
            return Profile::Throughput.as_str().to_owned();
        }
        format!("neither standard nor throughput, without {}", [of_both, of_standard].concat().join(", "))
    }

    /// Why the server does not compress directly, as far as the table and the server's version say: TimescaleDB's source,
    /// `choose_copy_method` and `TSCopyMultiInsertBufferInit` in `copy.c`.
    fn hindrance(&self) -> Option<String> {
        let Some(version) = &self.timescaledb else { return Some("there is no TimescaleDB".to_owned()) };
        if !self.is_community {
            return Some("TimescaleDB is the Apache edition".to_owned());
        }
        if !self.has_setting {
            return Some(format!("TimescaleDB {version} has no direct compress; 2.21 is the first that has"));
        }
        if !self.is_optimized {
            return Some("timescaledb.enable_optimizations is off".to_owned());
        }
        let mut reasons = Vec::new();
        if !self.unique.is_empty() {
            reasons.push(format!("unique indexes ({})", self.unique.join(", ")));
        }
        if !self.triggers.is_empty() {
            reasons.push(format!("triggers or foreign keys ({})", self.triggers.join(", ")));
        }
        (!reasons.is_empty()).then(|| format!("the table has {}", reasons.join(" and ")))
    }

    fn table(&self, hypertable: Option<&Row>) -> Table {
        let direct_compress = match (self.hindrance(), hypertable) {
            (Some(reason), _) => Err(reason),
            (None, None) => Err("the points are no hypertable".to_owned()),
            (None, Some(row)) if !row.get::<_, bool>(0) => Err("compression is not set".to_owned()),
            (None, Some(row)) => Ok(row.get::<_, Option<i64>>(1).unwrap_or(i64::MAX).max(1)),
        };
        Table { profile: self.profile(), direct_compress, other_type: self.other_type.clone() }
    }
}

/// Returns the table of points as it is now. It takes no locks: the table may have changed when this returns.
pub(in crate::database) async fn read_catalog(session: &mut Session) -> Result<Table, Error> {
    let rows = session.query(STEP, catalog_sql(), &[]).await?;
    let catalog = rows.first().map(Catalog::new).ok_or_else(|| Error::Unexpected(format!("{STEP}: no row")))?;
    let hypertable = if catalog.hindrance().is_none() {
        session.query(Step::Other("look at the hypertable"), HYPERTABLE, &[]).await?
    } else {
        Vec::new()
    };
    Ok(catalog.table(hypertable.first()))
}

/// Returns the row of [`HYPERTABLE`]; `None` if the points are not a hypertable.
pub(super) async fn read_hypertable(client: &Client) -> Result<Option<Row>, Error> {
    let step = Step::Other("look at the hypertable");
    client.query_opt(HYPERTABLE, &[]).await.map_err(|source| Error::Server { step, source })
}
