//! What the tables have, read in one transaction: for the manifest of a backup, and to compare a restored one with it.

use tokio_postgres::{Client, Row};

use super::error::Error;
use super::manifest::{Contents, Division, PartitionProgress, SourceProgress, TableContent, Window};
use crate::database::schema::roles::TABLES;
use crate::database::{quoted_name, quoted_text};

/// The table of points, which is read by windows of time.
const POINTS: &str = "time_series_data_points";
/// A migration that is applied again has its own time.
const HISTORY: &str = "ingest_schema_history";

/// Number, first and last time and hash of points. The hash is that of partitioned tables, which is the same on all versions
/// of PostgreSQL; ids make the rows different from each other.
const SUMMARY: &str = "count(*), min(\"timestamp\")::text, max(\"timestamp\")::text,
    coalesce(bit_xor(hash_record_extended((id, time_series_id, column_name, \"timestamp\", value), 0)), 0)::text";

/// How to divide the points.
#[derive(Debug, Clone, Copy)]
pub(super) enum Windows<'a> {
    /// As the table does: by chunk, or by day if it has none.
    Own,
    /// As these contents do.
    Of(&'a Contents),
}

/// Reads what the tables have; `tick` gets the number of points after each window.
pub(super) async fn read(client: &Client, windows: Windows<'_>, tick: impl Fn(u64)) -> Result<Contents, Error> {
    let mut contents = Contents { sources: sources(client).await?, ..Contents::default() };
    for table in tables(client).await? {
        let sql = format!(
            "select count(*), coalesce(bit_xor(hashtextextended(t::text collate \"C\", 0)), 0)::text from {} as t",
            quoted_name(&table)
        );
        let row = client.query_one(&sql, &[]).await.map_err(Error::server("count the rows of a table"))?;
        contents.tables.push(TableContent { rows: count(&row, 0), digest: row.get(1), name: table });
    }
    let chunks = chunks(client).await?;
    contents.windows_are = if chunks.is_empty() { Division::Days } else { Division::Chunks };
    contents.windows = match windows {
        Windows::Own if chunks.is_empty() => by_day(client).await?,
        Windows::Own => by_chunk(client, chunks, tick).await?,
        Windows::Of(other) => by_bounds(client, other).await?,
    };
    contents.points = contents.windows.iter().map(|window| window.points).sum();
    Ok(contents)
}

fn count(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column).unsigned_abs()
}

/// Our tables that are there, except that of the points.
async fn tables(client: &Client) -> Result<Vec<String>, Error> {
    let wanted: Vec<&str> =
        TABLES.iter().map(|(name, _)| *name).filter(|name| ![POINTS, HISTORY].contains(name)).collect();
    let sql = "select relname::text from pg_class
               where relnamespace = quote_ident(current_schema())::regnamespace and relname = any ($1) and relkind = 'r'
               order by relname collate \"C\"";
    let rows = client.query(sql, &[&wanted]).await.map_err(Error::server("list the tables"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn sources(client: &Client) -> Result<Vec<SourceProgress>, Error> {
    let sql = "select source.key::text, source.pipeline, source.cluster_id, source.topic, source.topic_id,
                   progress.partition, progress.next_offset, progress.ahead::text
               from ingest_source as source left join ingest_progress as progress on progress.source_id = source.id
               order by source.id, progress.partition";
    let rows = client.query(sql, &[]).await.map_err(Error::server("read the progress"))?;
    let mut sources: Vec<SourceProgress> = Vec::new();
    for row in rows {
        let key: String = row.get(0);
        if sources.last().is_none_or(|source| source.key != key) {
            sources.push(SourceProgress {
                key,
                pipeline: row.get(1),
                cluster_id: row.get(2),
                topic: row.get(3),
                topic_id: row.get(4),
                partitions: Vec::new(),
            });
        }
        let (Some(source), Some(partition)) = (sources.last_mut(), row.get(5)) else { continue };
        source.partitions.push(PartitionProgress { partition, next_offset: row.get(6), ahead: row.get(7) });
    }
    Ok(sources)
}

/// A chunk: its interval, its table, and `true` if it is compressed.
type Chunk = (String, String, String, bool);

/// The chunks of the points in order; none if they are a plain table.
async fn chunks(client: &Client) -> Result<Vec<Chunk>, Error> {
    let has_any = "select to_regclass('timescaledb_information.chunks') is not null";
    let row = client.query_one(has_any, &[]).await.map_err(Error::server("look for chunks"))?;
    if !row.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let sql = "select range_start::text, range_end::text, format('%I.%I', chunk_schema, chunk_name), is_compressed
               from timescaledb_information.chunks
               where hypertable_schema = current_schema() and hypertable_name = $1
               order by range_start";
    let rows = client.query(sql, &[&POINTS]).await.map_err(Error::server("list the chunks"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
}

async fn by_chunk(client: &Client, chunks: Vec<Chunk>, tick: impl Fn(u64)) -> Result<Vec<Window>, Error> {
    let mut windows = Vec::new();
    let mut points = 0;
    for (from, until, table, is_compressed) in chunks {
        let sql = format!(
            "select {SUMMARY} from {POINTS} where \"timestamp\" >= {} and \"timestamp\" < {}",
            quoted_text(&from),
            quoted_text(&until)
        );
        let row = client.query_one(&sql, &[]).await.map_err(Error::server("count the points of a chunk"))?;
        if count(&row, 0) > 0 {
            let (table, window) = (Some(table), window(&row, 0, from, until));
            windows.push(Window { table, is_compressed, ..window });
        }
        points += count(&row, 0);
        tick(points);
    }
    Ok(windows)
}

/// A window whose summary begins in this column.
fn window(row: &Row, at: usize, from: String, until: String) -> Window {
    Window {
        from,
        until,
        points: count(row, at),
        first: row.get::<_, Option<String>>(at + 1).unwrap_or_default(),
        last: row.get::<_, Option<String>>(at + 2).unwrap_or_default(),
        digest: row.get(at + 3),
        is_compressed: false,
        table: None,
    }
}

async fn by_day(client: &Client) -> Result<Vec<Window>, Error> {
    let sql = format!(
        "select day::text, (day + interval '1 day')::text, summary.* from (
             select date_trunc('day', \"timestamp\") as day, {SUMMARY} from {POINTS} group by 1) as summary (day)
         order by summary.day"
    );
    let rows = client.query(&sql, &[]).await.map_err(Error::server("count the points of each day"))?;
    Ok(rows.iter().map(|row| window(row, 3, row.get(0), row.get(1))).collect())
}

/// The points in the windows of other contents, by one scan of the table: its own division may be another one.
async fn by_bounds(client: &Client, other: &Contents) -> Result<Vec<Window>, Error> {
    let bounds: Vec<&str> =
        other.windows.iter().flat_map(|window| [window.from.as_str(), window.until.as_str()]).collect();
    let sql = format!(
        "with bounds as (
             select array_agg(distinct bound::timestamptz order by bound::timestamptz) as bounds from unnest($1::text[]) as bound
         ), summary as (
             select width_bucket(\"timestamp\", (select bounds from bounds)) as bucket, {SUMMARY} from {POINTS} group by 1
         )
         select coalesce((bounds.bounds[bucket])::text, '-infinity'), coalesce((bounds.bounds[bucket + 1])::text, 'infinity'),
             summary.*
         from summary, bounds order by bucket"
    );
    let rows = client.query(&sql, &[&bounds]).await.map_err(Error::server("count the points"))?;
    Ok(rows.iter().map(|row| window(row, 3, row.get(0), row.get(1))).collect())
}
