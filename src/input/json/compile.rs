//! Compiles a JSON input: its pointers become trees, with the defaults of its format.

use super::plan::{Envelope, JsonPlan, Layout, RecordTime, SeriesName, Tree};
use crate::input::options::{Format, InputOptions, Time};
use crate::input::pointer::Pointer;
use crate::input::problems::Problems;
use crate::input::template::Template;
use crate::input::time::TimeForm;
use crate::input::{Booleans, Strings};

/// The attributes of a CloudEvent that templates and times may point to.
const ATTRIBUTES: [&str; 6] = ["id", "source", "type", "subject", "time", "dataschema"];

impl JsonPlan {
    /// Compiles an input of a JSON format; `None` if it has a problem.
    pub(in crate::input) fn compile(options: &InputOptions, problems: &mut Problems) -> Option<Self> {
        match options.format {
            Format::TelegrafJson => telegraf(options, problems),
            Format::PrometheusJson => Some(prometheus(options)),
            _ => mapped(options, problems),
        }
    }
}

/// Assigns slots to the pointers whose values are kept.
#[derive(Default)]
struct Slots(Vec<Pointer>);

impl Slots {
    fn of(&mut self, pointer: Pointer) -> usize {
        self.0.iter().position(|known| *known == pointer).unwrap_or_else(|| {
            self.0.push(pointer);
            self.0.len() - 1
        })
    }

    /// Returns a new slot, even if another one has the same pointer.
    fn another(&mut self, pointer: Pointer) -> usize {
        self.0.push(pointer);
        self.0.len() - 1
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(Pointer::to_string).collect()
    }
}

fn pointer(text: &str) -> Pointer {
    Pointer(text.split('/').skip(1).map(str::to_owned).collect())
}

fn telegraf(options: &InputOptions, problems: &mut Problems) -> Option<JsonPlan> {
    let form = TimeForm::parse(Some(options.unit.as_deref().unwrap_or("s")), None).map_err(|(_, text)| text);
    let form = problems.take("unit", form)?;
    let (mut slots, mut record) = (Slots::default(), Tree::new());
    let (name, time) = (slots.of(pointer("/name")), slots.of(pointer("/timestamp")));
    record.at(&pointer("/name")).slot = Some(name);
    record.at(&pointer("/timestamp")).slot = Some(time);
    record.at(&pointer("/tags")).tags = true;
    let fields = record.at(&pointer("/fields"));
    (fields.columns, fields.name) = (Some(true), Some(String::new()));
    let mut around = Tree::new();
    around.at(&pointer("/metrics")).records = Some("/metrics".to_owned());
    Some(JsonPlan {
        layout: Layout { around: Some(around), is_array: true, envelope: Envelope::Metrics },
        record,
        slots: slots.0.len(),
        slot_names: slots.names(),
        series: SeriesName::Tags(name),
        time: RecordTime::Slot { slot: time, form, or_kafka: false },
        long: None,
        labels: Vec::new(),
        strings: options.strings.unwrap_or_default(),
        skips_messages: true,
        booleans: options.booleans.unwrap_or_default(),
        nested: options.nested.unwrap_or_default(),
    })
}

fn prometheus(options: &InputOptions) -> JsonPlan {
    let (mut slots, mut record) = (Slots::default(), Tree::new());
    let [name, time, value] = ["/name", "/timestamp", "/value"].map(|place| {
        let slot = slots.of(pointer(place));
        record.at(&pointer(place)).slot = Some(slot);
        slot
    });
    record.at(&pointer("/labels")).tags = true;
    JsonPlan {
        layout: Layout { around: None, is_array: false, envelope: Envelope::Plain },
        record,
        slots: slots.0.len(),
        slot_names: slots.names(),
        series: SeriesName::Tags(name),
        time: RecordTime::Slot { slot: time, form: TimeForm::Text, or_kafka: false },
        long: Some((Template::text("value"), value)),
        labels: Vec::new(),
        // The adapter writes values as strings, because JSON has no NaN.
        strings: options.strings.unwrap_or(Strings::Number),
        skips_messages: true,
        booleans: options.booleans.unwrap_or_default(),
        nested: options.nested.unwrap_or_default(),
    }
}

/// Compiles `json`, `debezium-json` and `cloudevents`, whose records are mapped by the input's keys.
fn mapped(options: &InputOptions, problems: &mut Problems) -> Option<JsonPlan> {
    let mut slots = Slots::default();
    let each = options.each.as_ref().and_then(|text| problems.take("each", Pointer::parse(text)));
    let series = match (&options.series, options.format) {
        (Some(text), _) => problems.take("series", series_template(text)),
        (None, Format::DebeziumJson) => Template::parse("{topic}").ok(),
        // The event's own source.
        (None, Format::Cloudevents) => None,
        (None, _) => {
            problems.push(
                "series",
                "is missing; set the template of the series' ids, such as \"{/site}/{/sensor}\" or \"{key}\"",
            );
            None
        }
    };
    let series = series.map(|template| template.map(|pointer| slots.of(pointer)));
    let labels = labels(options, &mut slots, problems);
    let long = long_form(options, &mut slots, problems);
    let time = configured_time(options, &mut slots, problems);
    let mut record = Tree::new();
    for (slot, pointer) in slots.0.iter().enumerate() {
        let node = record.at(pointer);
        (node.slot, node.columns) = (Some(slot), Some(false));
    }
    columns(options, long.is_none(), &mut record, problems);
    let value = long.as_ref().map(|(_, value)| *value);
    let (layout, event) = layout(options.format, each.as_ref(), value, &mut slots);
    let (series, time) = match event {
        Some((event_time, source)) => {
            let of_event = || RecordTime::Slot { slot: event_time, form: TimeForm::Text, or_kafka: true };
            let is_default = options.series.is_none();
            let series = if is_default { Some(Template::slot(source)) } else { series };
            (series, if options.time.is_none() { Some(of_event()) } else { time })
        }
        None => (series, time),
    };
    Some(JsonPlan {
        layout,
        record,
        slots: slots.0.len(),
        slot_names: slots.names(),
        series: SeriesName::Template(series?),
        time: time?,
        long,
        labels,
        strings: options.strings.unwrap_or_default(),
        // Only if the configuration says so: by default, a mapping that reads nothing must be noticed.
        skips_messages: options.strings == Some(Strings::Skip) || options.booleans == Some(Booleans::Skip),
        booleans: options.booleans.unwrap_or_default(),
        nested: options.nested.unwrap_or_default(),
    })
}

/// The template of series' ids; a pointer without braces would be the same text for all messages.
fn series_template(text: &str) -> Result<Template<Pointer>, String> {
    let template = Template::parse(text)?;
    if template.is_constant() && (text.starts_with('/') || text.starts_with("{{")) {
        let inside = text.trim_matches(['{', '}']);
        return Err(format!("is {text:?}, the same text for every message; write {{{inside}}} for what stands there"));
    }
    if template.is_constant() {
        nameable(text)?;
    }
    Ok(template)
}

/// Checks that a name from the configuration is valid in the tables.
fn nameable(name: &str) -> Result<(), String> {
    // The maximum of message.max_name_bytes; the configured value applies to messages.
    const MAX_BYTES: usize = 1300;
    if name.contains('\0') {
        return Err(format!("is {name:?}; PostgreSQL's text cannot hold the character U+0000"));
    }
    if name.len() > MAX_BYTES {
        return Err(format!("has a name of {} bytes; set one of at most {MAX_BYTES}", name.len()));
    }
    Ok(())
}

/// The labels, each with its name and its slot.
fn labels(options: &InputOptions, slots: &mut Slots, problems: &mut Problems) -> Vec<(String, usize)> {
    let mut labels = Vec::new();
    for text in &options.labels {
        let Some(pointer) = problems.take("labels", Pointer::parse(text)) else { continue };
        let name = pointer.dotted();
        if labels.iter().any(|(known, _)| *known == name) {
            problems.push("labels", format!("has two labels {name:?}; remove one"));
        }
        problems.take("labels", nameable(&name));
        labels.push((name, slots.of(pointer)));
    }
    labels
}

/// The time, if the configuration has its place.
fn configured_time(options: &InputOptions, slots: &mut Slots, problems: &mut Problems) -> Option<RecordTime> {
    match &options.time {
        Some(Time::Kafka) => Some(RecordTime::Kafka),
        Some(Time::At { at, unit, format }) => {
            let at = problems.take("time.at", Pointer::parse(at));
            let form = TimeForm::parse(unit.as_deref(), format.as_deref());
            let form = form.map_err(|(key, text)| problems.push(&format!("time.{key}"), text)).ok();
            at.zip(form).map(|(at, form)| RecordTime::Slot { slot: slots.of(at), form, or_kafka: false })
        }
        // The event's own time.
        None if options.format == Format::Cloudevents => None,
        None => {
            let text = "is missing; set where it stands, such as { at = \"/ts\", unit = \"ms\" }, or \"kafka\"";
            problems.push("time", text);
            None
        }
    }
}

/// The long form, if the input has it: the column's name and the slot of the value.
fn long_form(options: &InputOptions, slots: &mut Slots, problems: &mut Problems) -> Option<(Template<usize>, usize)> {
    let (column, value) = match (&options.column, &options.value) {
        (None, None) => return None,
        (Some(column), Some(value)) => (column, value),
        (Some(_), None) => {
            problems.push("value", "is missing, and column is set; set the pointer to the value, or remove column");
            return None;
        }
        (None, Some(_)) => {
            problems
                .push("column", "is missing, and value is set; set the pointer to the column's name, or remove value");
            return None;
        }
    };
    if options.columns.is_some() {
        problems.push("columns", "is set alongside column and value; remove either: a record has one value or many");
    }
    // A pointer alone is short for its template.
    let template = if column.starts_with('/') {
        Pointer::parse(column).and_then(|pointer| Template::parse(&format!("{{{pointer}}}")))
    } else {
        Template::parse(column)
    };
    let template = template.and_then(|template| match template.is_constant() {
        true => nameable(column).map(|()| template),
        false => Ok(template),
    });
    let template = problems.take("column", template);
    let value = problems.take("value", Pointer::parse(value));
    Some((template?.map(|pointer| slots.of(pointer)), slots.of(value?)))
}

/// Marks the fields of the record that are columns.
fn columns(options: &InputOptions, is_wide: bool, record: &mut Tree, problems: &mut Problems) {
    let none = Default::default();
    let columns = options.columns.as_ref().unwrap_or(&none);
    if !columns.only.is_empty() && !columns.except.is_empty() {
        problems.push("columns", "has both only and except; remove one");
    }
    record.at(&Pointer(Vec::new())).columns = Some(is_wide && columns.only.is_empty());
    let place_of = |key: &str, text: &str, problems: &mut Problems| {
        let place = problems.take(key, Pointer::parse(text))?;
        if place.0.is_empty() {
            problems.push(key, "has \"\", which is the whole record; name a field of it");
        }
        Some(place)
    };
    for text in columns.rename.keys() {
        if columns.except.contains(text) {
            problems.push("columns.rename", format!("has {text:?}, which except removes; remove one"));
        }
        let is_within = |only: &String| text == only || text.starts_with(&format!("{only}/"));
        if !columns.only.is_empty() && !columns.only.iter().any(is_within) {
            problems
                .push("columns.rename", format!("has {text:?}, which only does not name; add it there, or remove it"));
        }
    }
    let mut names: Vec<&String> = columns.rename.values().collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        problems.push("columns.rename", format!("has the name {:?} twice; set another one", pair[0]));
    }
    for place in columns.only.iter().filter_map(|text| place_of("columns.only", text, problems)).collect::<Vec<_>>() {
        let name = place.dotted();
        problems.take("columns.only", nameable(&name));
        let node = record.at(&place);
        (node.columns, node.name) = (Some(true), Some(name));
    }
    for place in columns.except.iter().filter_map(|text| place_of("columns.except", text, problems)).collect::<Vec<_>>()
    {
        record.at(&place).columns = Some(false);
    }
    for (text, name) in &columns.rename {
        if name.is_empty() {
            problems.push("columns.rename", format!("has no name for {text:?}; set one"));
        }
        problems.take("columns.rename", nameable(name));
        if let Some(place) = place_of("columns.rename", text, problems) {
            let node = record.at(&place);
            (node.columns, node.name) = (Some(true), Some(name.clone()));
        }
    }
}

/// The place of the records; for an event also the slots of its time and of its source. The slot of a record's value, in the
/// long form, is not read outside the record, where it would be another value.
fn layout(
    format: Format,
    each: Option<&Pointer>,
    value: Option<usize>,
    slots: &mut Slots,
) -> (Layout, Option<(usize, usize)>) {
    let is_array = each.is_some();
    let root = Pointer(Vec::new());
    let inside = each.unwrap_or(&root);
    let read = slots.0.clone();
    let around = |places: &[Pointer], prefixes: &[&str]| {
        let mut around = Tree::new();
        for (slot, place) in read.iter().enumerate().filter(|(slot, _)| Some(*slot) != value) {
            for prefix in prefixes {
                around.at(&pointer(prefix).join(place)).slot = Some(slot);
            }
        }
        for place in places {
            around.at(place).records = Some(place.to_string());
        }
        around
    };
    let plain = || Layout {
        around: (!inside.0.is_empty()).then(|| around(std::slice::from_ref(inside), &[""])),
        is_array,
        envelope: Envelope::Plain,
    };
    match format {
        Format::DebeziumJson => {
            let places = ["/payload/after", "/after"].map(|place| pointer(place).join(inside));
            let mut around = around(&places, &["/payload", ""]);
            // A template may point to the operation, too: then both share one slot.
            let operation = around.at(&pointer("/op")).slot.unwrap_or_else(|| slots.another(pointer("/op")));
            around.at(&pointer("/payload/op")).slot = Some(operation);
            around.at(&pointer("/op")).slot = Some(operation);
            (Layout { around: Some(around), is_array, envelope: Envelope::Change { operation } }, None)
        }
        Format::Cloudevents => {
            let mut around = around(&[pointer("/data").join(inside)], &[""]);
            // Templates and labels may point to these as well: then both share one slot.
            let [time, source] = ["/time", "/source"].map(|place| {
                let slot = around.at(&pointer(place)).slot.unwrap_or_else(|| slots.another(pointer(place)));
                around.at(&pointer(place)).slot = Some(slot);
                slot
            });
            let mut attributes = vec![("ce_time".to_owned(), time), ("ce_source".to_owned(), source)];
            let of_slot = |(slot, place): (usize, &Pointer)| match place.0.as_slice() {
                [name] if ATTRIBUTES.contains(&name.as_str()) => Some((format!("ce_{name}"), slot)),
                _ => None,
            };
            attributes.extend(read.iter().enumerate().filter_map(|(slot, place)| of_slot((slot, place))));
            let envelope = Envelope::Event { attributes, binary: Box::new(plain()) };
            (Layout { around: Some(around), is_array, envelope }, Some((time, source)))
        }
        _ => (plain(), None),
    }
}
