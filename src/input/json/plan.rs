//! What a JSON input is compiled into: a tree of the keys that mean something, walked along with the message.

use crate::input::pointer::Pointer;
use crate::input::template::Template;
use crate::input::time::TimeForm;
use crate::input::{Booleans, Nested, Strings};

/// How JSON becomes points.
#[derive(Debug)]
pub(in crate::input) struct JsonPlan {
    pub(super) layout: Layout,
    /// What is read of a record.
    pub(super) record: Tree,
    /// The number of values that are kept of a record by their slots.
    pub(super) slots: usize,
    /// The pointer of each slot, to name what is missing.
    pub(super) slot_names: Vec<String>,
    pub(super) series: SeriesName,
    pub(super) time: RecordTime,
    /// In the long form, the column's name and the slot of its value.
    pub(super) long: Option<(Template<usize>, usize)>,
    /// Labels: each its name and its slot.
    pub(super) labels: Vec<(String, usize)>,
    pub(super) strings: Strings,
    /// Whether a message whose values are all skipped is skipped as well, instead of being rejected.
    pub(super) skips_messages: bool,
    pub(super) booleans: Booleans,
    pub(super) nested: Nested,
}

/// Where the records stand in a message.
#[derive(Debug)]
pub(super) struct Layout {
    /// What is read of the message around its records, and where these stand; `None`: the message itself is the record, or
    /// the array of them.
    pub(super) around: Option<Tree>,
    /// Whether there is an array of records, each element one.
    pub(super) is_array: bool,
    /// What else the format has.
    pub(super) envelope: Envelope,
}

/// What is particular to a format's messages around their records.
#[derive(Debug)]
pub(super) enum Envelope {
    /// Nothing.
    Plain,
    /// Telegraf's: one metric alone, or several in an array.
    Metrics,
    /// Debezium's: the kind of change is in this slot.
    Change { operation: usize },
    /// That of CloudEvents: around the data, or in the message's headers. Then these attributes are read from there, each with
    /// its slot, and the data is laid out by `binary`.
    Event { attributes: Vec<(String, usize)>, binary: Box<Layout> },
}

/// Where a record's series comes from.
#[derive(Debug)]
pub(super) enum SeriesName {
    Template(Template<usize>),
    /// The name in this slot, and the tags.
    Tags(usize),
}

/// Where a record's time comes from.
#[derive(Debug)]
pub(super) enum RecordTime {
    Kafka,
    Slot { slot: usize, form: TimeForm, or_kafka: bool },
}

/// Keys that mean something; the first node is the value itself.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// What the value of a key is.
#[derive(Debug, Default)]
pub(super) struct Node {
    children: Vec<(String, usize)>,
    /// The slot that keeps it.
    pub(super) slot: Option<usize>,
    /// Whether it is, or its values are, columns from here on; `None`: as around it.
    pub(super) columns: Option<bool>,
    /// What its column is called, or what the names of its columns begin with.
    pub(super) name: Option<String>,
    /// Whether its members are tags.
    pub(super) tags: bool,
    /// If it is the record, or the array of them: its own place in the message.
    pub(super) records: Option<String>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// The node at a place; it is made if there is none.
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

    /// Returns `true` if something below the node means something.
    pub(super) fn has_children(&self, node: Option<usize>) -> bool {
        node.is_some_and(|node| !self.nodes[node].children.is_empty())
    }
}
