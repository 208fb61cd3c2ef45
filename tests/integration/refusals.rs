//! Rows that only the server can refuse: their messages become dead letters, and all others are written.

use crate::support::bed::Bed;
use crate::support::data::{Difference, Published};

/// A message with a row that [`REFUSE`] refuses.
const REFUSED: &[u8] = br#"{"time_series_id":"s","timestamps":[0,1],"columns":{"c":[1,-7]}}"#;
const REFUSE: &str = "alter table time_series_data_points add constraint no_sevens check (value <> -7)";
/// The same by a trigger that runs after the rows were taken in, so that the row at which the COPY ends is another one.
const REFUSE_LATE: &str = "
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.value = -7 then
            raise exception 'no sevens' using errcode = 'check_violation', constraint = 'no_sevens';
        end if;
        return null;
    end $$;
    create trigger refuse after insert on time_series_data_points for each row execute function refuse()";

/// Publishes `messages` good ones of 100 points, and a refused one before each of those at `refused`; the offsets of the
/// refused.
fn publish(bed: &Bed, published: &mut Published, messages: usize, refused: &[usize]) -> Vec<i64> {
    let mut offsets = Vec::new();
    for number in 0..messages {
        if refused.contains(&number) {
            offsets.push((number + offsets.len()) as i64);
            bed.producer.send(&bed.points_topic, 0, "s", Some(REFUSED));
        }
        let good = published.batch("s", 50);
        bed.producer.send(&bed.points_topic, 0, "s", Some(good.as_bytes()));
    }
    bed.producer.flush();
    offsets
}

/// That the table is exact, and the dead letters are of just these offsets, each with the server's reason and no row.
async fn assert_refused(bed: &Bed, published: &Published, offsets: &[i64]) {
    let letters =
        bed.client.query("select \"offset\", reason, detail from ingest_dead_letter order by 1", &[]).await.unwrap();
    assert_eq!(letters.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), offsets);
    for letter in letters {
        assert_eq!(letter.get::<_, &str>(1), "rejected_by_database");
        let detail: &str = letter.get(2);
        assert!(
            detail.contains("23514") && detail.contains("no_sevens") || detail.contains("P0001: no sevens"),
            "{detail}"
        );
        assert!(!detail.contains("-7"), "no row is quoted: {detail}");
    }
    assert_eq!(bed.difference(published).await, Difference::default());
}

async fn transactions(bed: &Bed, worker: &crate::support::worker::Worker) -> (f64, i64) {
    bed.client.batch_execute("select pg_stat_clear_snapshot()").await.unwrap();
    let committed = worker.metric("series_ingest_transaction_seconds_count").unwrap_or(0.0);
    let given_up = "select xact_rollback from pg_stat_database where datname = current_database()";
    (committed, bed.count(given_up).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_refused_rows_among_a_hundred_thousand_take_no_good_one_with_them() {
    let Some(bed) = Bed::new("refused", 1).await else { return };
    bed.client.batch_execute(REFUSE).await.unwrap();
    let mut published = Published::default();
    let offsets = publish(&bed, &mut published, 1000, &[23, 24, 870]);
    assert_eq!(published.rows.len(), 100_000);
    let worker = bed.worker(&[]);
    bed.until_applied(60).await;
    assert_refused(&bed, &published, &offsets).await;
    let (committed, given_up) = transactions(&bed, &worker).await;
    assert!(committed + given_up as f64 <= 60.0, "{committed} transactions committed, {given_up} given up");
    assert_eq!(worker.metric("series_ingest_dead_letters_total{reason=\"rejected_by_database\"}"), Some(3.0));
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_speaks_late_leads_to_the_same_messages() {
    let Some(bed) = Bed::new("refused_late", 1).await else { return };
    bed.client.batch_execute(REFUSE_LATE).await.unwrap();
    let mut published = Published::default();
    let offsets = publish(&bed, &mut published, 300, &[0, 77, 78, 299]);
    let worker = bed.worker(&[]);
    bed.until_applied(60).await;
    assert_refused(&bed, &published, &offsets).await;
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_raises_without_a_code_refuses_a_row_too() {
    let Some(bed) = Bed::new("refused_raise", 1).await else { return };
    let (before, after) =
        REFUSE_LATE.split_once(" using errcode = 'check_violation', constraint = 'no_sevens'").unwrap();
    bed.client.batch_execute(&format!("{before}{after}")).await.unwrap();
    let mut published = Published::default();
    let offsets = publish(&bed, &mut published, 20, &[7]);
    let worker = bed.worker(&[]);
    bed.until_applied(60).await;
    assert_refused(&bed, &published, &offsets).await;
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refused_messages_keeps_moving() {
    let Some(bed) = Bed::new("refused_storm", 1).await else { return };
    bed.client.batch_execute(REFUSE).await.unwrap();
    let mut published = Published::default();
    let all: Vec<usize> = (0..500).collect();
    for _ in 0..500 {
        bed.producer.send(&bed.points_topic, 0, "s", Some(REFUSED));
    }
    let mut offsets: Vec<i64> = (0..500).collect();
    let last = publish(&bed, &mut published, 500, &all);
    offsets.extend(last.into_iter().map(|offset| offset + 500));
    let worker = bed.worker(&[]);
    bed.until_applied(90).await;
    assert_refused(&bed, &published, &offsets).await;
    drop(worker);
    bed.remove().await;
}
