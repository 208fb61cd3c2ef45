//! The compiled form of a JSON input: a tree of mapped keys, walked along with the message.

use crate::input::pointer::Pointer;
use crate::input::template::Template;
use crate::input::time::TimeForm;
use crate::input::{Booleans, Nested, Strings};

/// Compiled options for decoding JSON into points.
#[derive(Debug)]
pub(in crate::input) struct JsonPlan {
    pub(super) layout: Layout,
    /// The mapped keys of a record.
    pub(super) record: Tree,
    /// Number of a record's values that are kept in slots.
    pub(super) slots: usize,
    /// The pointer of each slot, to name a missing value.
    pub(super) slot_names: Vec<String>,
    pub(super) series: SeriesName,
    pub(super) time: RecordTime,
    /// In the long form, the column's name and the slot of its value.
    pub(super) long: Option<(Template<usize>, usize)>,
    /// The labels, each with its name and its slot.
    pub(super) labels: Vec<(String, usize)>,
    pub(super) strings: Strings,
    /// `true` if a message whose values are all skipped is skipped as well; otherwise it is rejected.
    pub(super) skips_messages: bool,
    pub(super) booleans: Booleans,
    pub(super) nested: Nested,
}

/// The place of the records in a message.
#[derive(Debug)]
pub(super) struct Layout {
    /// The mapped keys of the message around its records, and the place of these; `None` if the message itself is the record,
    /// or the array of records.
    pub(super) around: Option<Tree>,
    /// `true` if there is an array of records, each element one.
    pub(super) is_array: bool,
    /// The rest of the format.
    pub(super) envelope: Envelope,
}

/// The parts that a format's messages have around their records.
#[derive(Debug)]
pub(super) enum Envelope {
    /// Nothing.
    Plain,
    /// Telegraf's: one metric alone, or several in an array.
    Metrics,
    /// Debezium's: the operation is in this slot.
    Change { operation: usize },
    /// CloudEvents': around the data, or in the message's headers. In the latter case these attributes are read from there,
    /// each into its slot, and the data has the layout `binary`.
    Event { attributes: Vec<(String, usize)>, binary: Box<Layout> },
}

/// The source of a record's series.
#[derive(Debug)]
pub(super) enum SeriesName {
    Template(Template<usize>),
    /// The name in this slot, and the tags.
    Tags(usize),
}

/// The source of a record's time.
#[derive(Debug)]
pub(super) enum RecordTime {
    Kafka,
    Slot { slot: usize, form: TimeForm, or_kafka: bool },
}

/// The mapped keys; the first node is the value itself.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// The use of a key's value.
#[derive(Debug, Default)]
pub(super) struct Node {
    children: Vec<(String, usize)>,
    /// The slot for it.
    pub(super) slot: Option<usize>,
    /// `true` if it, or its values, are columns from here on, `false` if not; `None`: like the outer value.
    pub(super) columns: Option<bool>,
    /// The name of its column, or the prefix of its columns' names.
    pub(super) name: Option<String>,
    /// `true` if its members are tags.
    pub(super) tags: bool,
    /// If it is the record, or the array of records: its place in the message.
    pub(super) records: Option<String>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// The node at a place, which is created if it does not exist.
    pub(super) fn at(&mut self, pointer: &Pointer) -> &mut Node {
        let mut index = 0;
        for key in &pointer.0 {
            index = match self.child(Some(index), key) {
                Some(child) => child,
                None => {
                    self.nodes.push(Node::default());
                    let child = self.nodes.len() - 1;
                    self.nodes[index].children.push((key.clone(), child));
                    child
                }
            };
        }
        &mut self.nodes[index]
    }

    /// The node of a key below another.
    pub(super) fn child(&self, node: Option<usize>, key: &str) -> Option<usize> {
        let children = &self.nodes[node?].children;
        children.iter().find_map(|(name, child)| (name == key).then_some(*child))
    }

    /// Returns `true` if the node has mapped keys below it.
    pub(super) fn has_children(&self, node: Option<usize>) -> bool {
        node.is_some_and(|node| !self.nodes[node].children.is_empty())
    }
}
