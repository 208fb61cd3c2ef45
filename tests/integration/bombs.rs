//! Messages that are small in Kafka and large when they are decompressed, which librdkafka does before this program sees them.

use crate::support::broker::Producer;
use crate::support::data::{Difference, Published};
use crate::support::fixture::Fixture;
use crate::support::until;

const MIB: usize = 1024 * 1024;

/// A message of this many bytes that are hardly any when compressed; its points are not published.
fn bomb(bytes: usize) -> Vec<u8> {
    let message = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#;
    let mut payload = vec![b' '; bytes];
    payload[bytes - message.len()..].copy_from_slice(message);
    payload
}

/// Publishes a bomb between good messages.
fn publish_around_bomb(fixture: &Fixture, published: &mut Published, codec: &str, bytes: usize) {
    let producer = Producer::with(&fixture.brokers, &[("compression.type", codec), ("message.max.bytes", "500000000")]);
    let mut good = || {
        let payload = published.batch("s", 5);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        fixture.producer.flush();
    };
    good();
    producer.send(&fixture.points_topic, 0, "s", Some(&bomb(bytes)));
    producer.flush();
    good();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_decompresses_to_more_than_is_allowed_is_a_dead_letter() {
    for (codec, bytes) in [("zstd", 64 * MIB), ("lz4", 64 * MIB), ("gzip", 64 * MIB), ("snappy", 16 * MIB)] {
        let Some(fixture) = Fixture::new(&format!("bomb_{codec}"), 1).await else { return };
        let mut published = Published::default();
        publish_around_bomb(&fixture, &mut published, codec, bytes);
        let worker = fixture.worker(&[]);
        fixture.until_applied(60).await;
        assert_eq!(fixture.difference(&published).await, Difference::default(), "{codec}");
        let letter = "select count(*) from ingest_dead_letter where reason = 'too_large' and \"offset\" = 1
                      and payload_bytes = $1 and length(payload) = 65536";
        let letters: i64 = fixture.client.query_one(letter, &[&(bytes as i64)]).await.unwrap().get(0);
        assert_eq!((letters, fixture.count("select count(*) from ingest_dead_letter").await), (1, 1), "{codec}");
        let peak = worker.most_resident_bytes() as usize;
        assert!(peak < 256 * MIB, "memory.limit_bytes holds: {} MiB", peak / MIB);
        println!("{codec}: {} MiB of memory at most, for {} MiB", peak / MIB, bytes / MIB);
        drop(worker);
        fixture.remove().await;
    }
}

/// librdkafka decompresses zstd up to `receive.message.max.bytes`. What is larger stops its partition, loudly, until that is raised.
#[tokio::test(flavor = "multi_thread")]
async fn what_librdkafka_does_not_decompress_is_reported_and_passes_with_a_higher_limit() {
    let Some(fixture) = Fixture::new("bomb_stuck", 1).await else { return };
    let mut published = Published::default();
    publish_around_bomb(&fixture, &mut published, "zstd", 120 * MIB);
    let mut worker = fixture.worker(&[("SERIES_INGEST__HTTP__STALL_MS", "3000")]);
    until(60, "it is told", async || worker.log().contains("receive.message.max.bytes")).await;
    until(60, "the worker is not ready", async || {
        worker.get("/readyz").is_some_and(|(code, reasons)| code == 503 && reasons.contains("stalled"))
    })
    .await;
    assert_eq!(fixture.next_offsets().await, [1], "it stays before the message");
    assert_eq!(worker.terminate(10), Some(0));
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__PROPERTIES__RECEIVE_MESSAGE_MAX_BYTES", "200000000")]);
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Difference::default());
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter where reason = 'too_large'").await, 1);
    drop(worker);
    fixture.remove().await;
}
