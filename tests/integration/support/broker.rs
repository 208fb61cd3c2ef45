//! The real broker from a producer's and an administrator's side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

pub const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Default, Clone)]
struct Deliveries {
    good: Arc<AtomicUsize>,
    bad: Arc<AtomicUsize>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.good } else { &self.bad };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Publishes, and knows that the broker has all of it.
pub struct Producer {
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
    sent: AtomicUsize,
}

fn record<'a>(topic: &'a str, partition: i32, key: &'a str, payload: Option<&'a [u8]>) -> BaseRecord<'a, str, [u8]> {
    let record = BaseRecord::to(topic).partition(partition).key(key);
    match payload {
        Some(payload) => record.payload(payload),
        None => record,
    }
}

impl Producer {
    pub fn new(brokers: &str) -> Self {
        Self::with(brokers, &[])
    }

    pub fn transactional(brokers: &str, id: &str) -> Self {
        let producer = Self::with(brokers, &[("transactional.id", id)]);
        producer.producer.init_transactions(TIMEOUT).unwrap();
        producer
    }

    /// With other properties of librdkafka.
    pub fn with(brokers: &str, properties: &[(&str, &str)]) -> Self {
        let deliveries = Deliveries::default();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("linger.ms", "5");
        for (name, value) in properties {
            config.set(*name, *value);
        }
        let producer = config.create_with_context(deliveries.clone()).unwrap();
        Self { producer, deliveries, sent: AtomicUsize::new(0) }
    }

    pub fn send(&self, topic: &str, partition: i32, key: &str, payload: Option<&[u8]>) {
        self.send_with_headers(topic, partition, key, payload, &[]);
    }

    /// With a time of ours, in milliseconds since the Unix epoch.
    pub fn send_at(&self, topic: &str, partition: i32, key: &str, payload: Option<&[u8]>, time_ms: i64) {
        self.enqueue(record(topic, partition, key, payload).timestamp(time_ms));
    }

    pub fn send_with_headers(
        &self,
        topic: &str,
        partition: i32,
        key: &str,
        payload: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) {
        let mut all = OwnedHeaders::new();
        for (key, value) in headers {
            all = all.insert(Header { key, value: Some(*value) });
        }
        self.enqueue(record(topic, partition, key, payload).headers(all));
    }

    /// With a header whose name is of any bytes.
    #[allow(unsafe_code, reason = "rdkafka's producer takes a name as text, and only passes its bytes on")]
    pub fn send_with_odd_header(&self, topic: &str, partition: i32, payload: &[u8], name: &[u8], value: &str) {
        // SAFETY: nobody looks at the text as such.
        let key = unsafe { std::str::from_utf8_unchecked(name) };
        let headers = OwnedHeaders::new().insert(Header { key, value: Some(value) });
        self.enqueue(record(topic, partition, "key", Some(payload)).headers(headers));
    }

    fn enqueue(&self, mut record: BaseRecord<'_, str, [u8]>) {
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((error, _)) => panic!("the message was refused: {error}"),
            }
        }
        self.sent.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until the broker has acknowledged everything.
    pub fn flush(&self) {
        self.producer.flush(TIMEOUT).unwrap();
        assert_eq!(self.deliveries.bad.load(Ordering::SeqCst), 0, "messages were not delivered");
        assert_eq!(self.deliveries.good.load(Ordering::SeqCst), self.sent.load(Ordering::SeqCst));
    }

    pub fn begin(&self) {
        self.producer.begin_transaction().unwrap();
    }

    pub fn commit(&self) {
        self.producer.flush(TIMEOUT).unwrap();
        self.producer.commit_transaction(TIMEOUT).unwrap();
    }

    pub fn abort(&self) {
        // What is not out yet is thrown away; some of it should be out, or nothing would be tested.
        self.producer.flush(TIMEOUT).unwrap();
        self.producer.abort_transaction(TIMEOUT).unwrap();
    }
}

/// Administers topics and groups.
pub struct Broker {
    admin: AdminClient<DefaultClientContext>,
    brokers: String,
}

impl Broker {
    pub fn new(brokers: &str) -> Self {
        let admin = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        Self { admin, brokers: brokers.to_owned() }
    }

    fn options() -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT))
    }

    pub async fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        // As many replicas as the brokers have by default.
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        for result in self.admin.create_topics([&new], &Self::options()).await.unwrap() {
            result.unwrap();
        }
    }

    /// Gives a topic these settings, and the brokers' defaults for all others.
    pub async fn alter(&self, topic: &str, settings: &[(&str, &str)]) {
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in settings {
            alter = alter.set(name, value);
        }
        for result in self.admin.alter_configs([&alter], &Self::options()).await.unwrap() {
            result.unwrap();
        }
    }

    /// Has a topic have this many partitions.
    pub async fn add_partitions(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        for result in self.admin.create_partitions([&new], &Self::options()).await.unwrap() {
            result.unwrap();
        }
    }

    pub async fn delete(&self, topics: &[&str]) {
        for result in self.admin.delete_topics(topics, &Self::options()).await.unwrap() {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    pub async fn delete_group(&self, group: &str) -> bool {
        let results = self.admin.delete_groups(&[group], &Self::options()).await.unwrap();
        results.into_iter().all(|result| result.is_ok())
    }

    /// Removes the records below `offset`, as retention does.
    pub async fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        let result = self.admin.delete_records(&list, &Self::options()).await.unwrap();
        for element in result.elements() {
            element.error().unwrap();
        }
    }

    pub fn exists(&self, topic: &str) -> bool {
        let metadata = self.consumer("series-ingest-tests").fetch_metadata(Some(topic), TIMEOUT).unwrap();
        metadata.topics().iter().any(|found| found.name() == topic && found.error().is_none())
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()
            .unwrap()
    }

    /// The offset after the last record, transactions' markers included.
    pub fn end(&self, topic: &str, partition: i32) -> i64 {
        self.consumer("series-ingest-tests").fetch_watermarks(topic, partition, TIMEOUT).unwrap().1
    }

    /// The same of each partition of a topic that has this many.
    pub fn ends(&self, topic: &str, partitions: i32) -> Vec<i64> {
        let consumer = self.consumer("series-ingest-tests");
        let deadline = Instant::now() + TIMEOUT;
        let end = |number| {
            loop {
                match consumer.fetch_watermarks(topic, number, TIMEOUT) {
                    // A broker learns some time after a topic was made that it leads its partitions.
                    Err(KafkaError::MetadataFetch(RDKafkaErrorCode::NotLeaderForPartition))
                        if Instant::now() < deadline =>
                    {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    answer => return answer.unwrap().1,
                }
            }
        };
        (0..partitions).map(end).collect()
    }

    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = self.consumer(group).committed_offsets(list, TIMEOUT).unwrap();
        match committed.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Sets a group's offset; the group must have no members.
    pub fn reset_group(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        self.consumer(group).commit(&list, CommitMode::Sync).unwrap();
    }

    /// The offsets of all records of a partition that a consumer can read.
    pub fn offsets(&self, topic: &str, partition: i32) -> Vec<i64> {
        use rdkafka::Message as _;
        self.records(topic, partition).iter().map(|record| record.offset()).collect()
    }

    /// All records of a partition that a consumer can read.
    pub fn records(&self, topic: &str, partition: i32) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "series-ingest-tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        loop {
            match consumer.poll(TIMEOUT) {
                Some(Ok(message)) => records.push(message.detach()),
                Some(Err(KafkaError::PartitionEOF(_))) => return records,
                Some(Err(error)) => panic!("{error}"),
                None => panic!("the end of {topic}/{partition} was not reached"),
            }
        }
    }
}

/// A member of a consumer group, for as long as it is kept.
pub struct Member {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Member {
    /// Joins a group by this client id, as the program's workers do.
    pub fn join(brokers: &str, group: &str, topic: &str, client_id: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", group)
            .set("client.id", client_id)
            .set("session.timeout.ms", "3000")
            .set("heartbeat.interval.ms", "300")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[topic]).unwrap();
        let ends = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                drop(consumer.poll(Duration::from_millis(50)));
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}
