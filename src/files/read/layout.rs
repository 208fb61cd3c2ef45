//! Which columns of a file are times, names and values: as it is said, or as it is found.

use std::collections::HashSet;

use super::fields::{ANY_TIME, AsTime, Field};
use super::metadata::Metadata;
use super::options::ReadOptions;
use crate::files::Form;
use crate::input::TimeForm;
use crate::message::timestamp::Unit;

/// The names by which a column is taken for the times, in lower case.
const TIME_NAMES: [&str; 6] = ["timestamp", "time", "datetime", "date", "ts", "date_time"];
/// The names by which a column is taken for the series of its row.
const SERIES_NAMES: [&str; 3] = ["time_series_id", "series_id", "series"];
/// The names by which a column is taken for the name of a point's column.
const COLUMN_NAMES: [&str; 3] = ["column_name", "column", "variable"];
/// The name by which a column is taken for a point's value.
const VALUE_NAME: &str = "value";
/// How pandas names an index without a name.
const PANDAS_INDEX: &str = "__index_level_";

/// Which columns mean what, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) time: usize,
    pub(super) time_form: CellTime,
    pub(super) series: SeriesOf,
    pub(super) shape: Shape,
    /// What a person may not expect.
    pub(super) notes: Vec<String>,
}

/// How the times are written.
#[derive(Debug, Clone)]
pub(super) enum CellTime {
    /// As the column's type says.
    Typed,
    /// As texts that a message may have.
    Text,
    /// As numbers of this unit; texts are taken, too.
    Number(Unit),
    /// As texts of a pattern.
    Pattern(String, TimeForm),
}

/// The series of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SeriesOf {
    /// The same in all rows.
    Fixed(String),
    /// What this column has.
    Column(usize),
}

/// What a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// A value in each of these columns.
    Wide(Vec<usize>),
    /// A point.
    Long {
        /// The name of its column.
        column: usize,
        /// Its value.
        value: usize,
    },
}

impl Layout {
    /// Finds it, or says what is to be said on the command line.
    pub(super) fn find(options: &ReadOptions, fields: &[Field], metadata: &Metadata) -> Result<Self, String> {
        let finder = Finder { options, fields, metadata };
        let time = finder.time()?;
        let time_form = finder.time_form(time)?;
        let long = finder.long(time)?;
        let series = finder.series(time, long.is_some())?;
        let mut notes = Vec::new();
        let shape = match long {
            Some((column, value)) => {
                finder.note_unread(&[Some(time), series.column(), Some(column), Some(value)], &mut notes);
                Shape::Long { column, value }
            }
            None => Shape::Wide(finder.wide(time, &series, &mut notes)?),
        };
        Ok(Self { time, time_form, series, shape, notes })
    }

    pub(super) fn form(&self) -> Form {
        match self.shape {
            Shape::Wide(_) => Form::Wide,
            Shape::Long { .. } => Form::Long,
        }
    }
}

impl SeriesOf {
    pub(super) fn column(&self) -> Option<usize> {
        match self {
            Self::Column(column) => Some(*column),
            Self::Fixed(_) => None,
        }
    }
}

struct Finder<'a> {
    options: &'a ReadOptions,
    fields: &'a [Field],
    metadata: &'a Metadata,
}

impl Finder<'_> {
    /// The column that an option names.
    fn named(&self, option: &str, name: &str) -> Result<usize, String> {
        let mut found = (0..self.fields.len()).filter(|index| self.fields[*index].name == name);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => Err(format!("{option} {}: several columns have this name", quoted(name))),
            (None, _) => {
                let names: Vec<String> = self.fields.iter().take(50).map(|field| quoted(&field.name)).collect();
                let more = if names.len() < self.fields.len() { ", …" } else { "" };
                Err(format!("{option} {}: there is no such column; there are {}{more}", quoted(name), names.join(", ")))
            }
        }
    }

    fn by_names(&self, names: &[&str], fits: impl Fn(&Field) -> bool) -> Option<usize> {
        let is = |index: &usize, name: &str| {
            self.fields[*index].name.eq_ignore_ascii_case(name) && fits(&self.fields[*index])
        };
        names.iter().find_map(|name| (0..self.fields.len()).find(|index| is(index, name)))
    }

    fn time(&self) -> Result<usize, String> {
        if let Some(name) = &self.options.time_column {
            return self.named("--time-column", name);
        }
        let is_time =
            |index: &usize| matches!(self.fields[*index].as_time, AsTime::Typed | AsTime::Text | AsTime::Unseen);
        let of_definition = match self.metadata.definitions.as_slice() {
            [only] => only.time_column.as_deref(),
            _ => None,
        };
        let said = of_definition.into_iter().chain(self.metadata.index.as_deref());
        for name in said {
            if let Some(index) = (0..self.fields.len()).find(|index| self.fields[*index].name == name).filter(is_time) {
                return Ok(index);
            }
        }
        if let Some(index) = self.by_names(&TIME_NAMES, |field| field.as_time != AsTime::Never) {
            return Ok(index);
        }
        let of = |kind: AsTime| -> Vec<usize> {
            (0..self.fields.len()).filter(|index| self.fields[*index].as_time == kind).collect()
        };
        let typed = of(AsTime::Typed);
        let found = if typed.is_empty() { of(AsTime::Text) } else { typed };
        match found.as_slice() {
            [only] => Ok(*only),
            [] => Err("no column is known to have the times: say which one, --time-column C".to_owned()),
            several => {
                let names: Vec<String> = several.iter().map(|index| quoted(&self.fields[*index].name)).collect();
                Err(format!(
                    "several columns have times: say which one is meant, --time-column C, of {}",
                    names.join(", ")
                ))
            }
        }
    }

    fn time_form(&self, time: usize) -> Result<CellTime, String> {
        let field = &self.fields[time];
        let name = quoted(&field.name);
        let example = field.example.as_deref().map_or_else(String::new, |text| format!(", such as {text:?}"));
        match (field.as_time, self.options.time_unit, &self.options.time_format) {
            (AsTime::Never, ..) => {
                Err(format!("the column {name} is {}, and no time: name another one with --time-column", field.kind))
            }
            (AsTime::Typed, None, None) => Ok(CellTime::Typed),
            (AsTime::Typed, ..) => Err(format!(
                "the column {name} is {}, which says how its times are meant: leave --time-unit and --time-format out",
                field.kind
            )),
            (_, Some(unit), _) => Ok(CellTime::Number(unit)),
            (_, None, Some((pattern, form))) => Ok(CellTime::Pattern(pattern.clone(), form.clone())),
            (AsTime::Text | AsTime::Unseen, None, None) => Ok(CellTime::Text),
            (AsTime::Number, None, None) => Err(format!(
                "the column {name} has its times as numbers{example}: say their unit, --time-unit s, ms, us or ns, or their form, \
                 --time-format %Y%m%d"
            )),
            (AsTime::OtherText, None, None) => Err(format!(
                "the column {name} has its times in a form that is not known{example}: say it, --time-format '{}', or name \
                 another column with --time-column",
                likely_pattern(field.example.as_deref().unwrap_or_default())
            )),
        }
    }

    /// The columns of the name and the value of a row that is a point.
    fn long(&self, time: usize) -> Result<Option<(usize, usize)>, String> {
        let is_said = match self.options.form {
            Some(Form::Wide) => return Ok(None),
            Some(Form::Long) => true,
            None if self.metadata.is_wide_export() => return Ok(None),
            None => false,
        };
        // A number is a name if it is said to be one.
        let is_name = |field: &Field| field.is_name && (is_said || field.as_time != AsTime::Number);
        let column = self.by_names(&COLUMN_NAMES, is_name).filter(|column| *column != time);
        let value = self.by_names(&[VALUE_NAME], |field| field.is_value).filter(|value| *value != time);
        match (column, value) {
            (Some(column), Some(value)) => {
                if !self.options.columns.is_empty() {
                    return Err(
                        "--columns: a row is a point here, with the name of its column; leave it out, or say --wide"
                            .to_owned(),
                    );
                }
                Ok(Some((column, value)))
            }
            _ if !is_said => Ok(None),
            (None, _) => Err(format!(
                "--long: no column has the names of columns; it is to be called {}",
                COLUMN_NAMES.join(", ").replace(", variable", " or variable")
            )),
            (_, None) => Err(format!("--long: no column has the values of points; it is to be called {VALUE_NAME}")),
        }
    }

    fn series(&self, time: usize, is_long: bool) -> Result<SeriesOf, String> {
        if let Some(id) = &self.options.series {
            return Ok(SeriesOf::Fixed(id.clone()));
        }
        if let Some(name) = &self.options.series_column {
            let column = self.named("--series-column", name)?;
            if !self.fields[column].is_name {
                return Err(format!("--series-column {}: is {}, and no text", quoted(name), self.fields[column].kind));
            }
            return Ok(SeriesOf::Column(column));
        }
        // A wide file of `points export` has one series; its columns may have any names.
        if let ([only], true) = (self.metadata.definitions.as_slice(), self.metadata.is_wide_export()) {
            return Ok(SeriesOf::Fixed(only.id.clone()));
        }
        let is_name = |field: &Field| field.is_name && (is_long || field.as_time != AsTime::Number);
        if let Some(column) = self.by_names(&SERIES_NAMES, is_name).filter(|column| *column != time) {
            return Ok(SeriesOf::Column(column));
        }
        match self.metadata.definitions.as_slice() {
            [only] => Ok(SeriesOf::Fixed(only.id.clone())),
            _ => Err("the series of the points is not known: say it, --series ID, or name the column that has it, --series-column C"
                .to_owned()),
        }
    }

    fn wide(&self, time: usize, series: &SeriesOf, notes: &mut Vec<String>) -> Result<Vec<usize>, String> {
        let is_other = |index: &usize| *index != time && Some(*index) != series.column();
        let mut columns = Vec::new();
        if self.options.columns.is_empty() {
            let is_pandas = !self.metadata.is_wide_export();
            let is_index = |index: &usize| is_pandas && self.fields[*index].name.starts_with(PANDAS_INDEX);
            columns.extend((0..self.fields.len()).filter(|index| is_other(index) && !is_index(index)));
            let indexes: Vec<Option<usize>> = columns.iter().copied().map(Some).collect();
            self.note_unread(&[&indexes[..], &[Some(time), series.column()]].concat(), notes);
        }
        for name in &self.options.columns {
            let column = self.named("--columns", name)?;
            if !is_other(&column) {
                return Err(format!("--columns {}: this column has the times or the series", quoted(name)));
            }
            if columns.contains(&column) {
                return Err(format!("--columns {}: is named twice", quoted(name)));
            }
            columns.push(column);
        }
        let mut names = HashSet::new();
        for column in &columns {
            self.check_value(*column, &columns)?;
            if !names.insert(&self.fields[*column].name) {
                return Err(format!("several columns have the name {}", quoted(&self.fields[*column].name)));
            }
        }
        if columns.is_empty() && !self.metadata.is_wide_export() {
            return Err("has no column with values, only times".to_owned());
        }
        Ok(columns)
    }

    /// Checks that a column may have values, and has its own name.
    fn check_value(&self, column: usize, columns: &[usize]) -> Result<(), String> {
        let field = &self.fields[column];
        let is_usable = |index: &usize| self.fields[*index].is_value && !self.fields[*index].name.is_empty();
        let others = || {
            let names: Vec<String> = columns
                .iter()
                .filter(|index| is_usable(index))
                .take(50)
                .map(|index| quoted(&self.fields[*index].name))
                .collect();
            if names.is_empty() { String::new() } else { format!(", --columns {}", names.join(" ")) }
        };
        if !field.is_value {
            let example = field.example.as_deref().map_or_else(String::new, |text| format!(" ({text:?})"));
            return Err(format!(
                "the column {} is {}{example}, and has no values: say which columns have{}",
                quoted(&field.name),
                field.kind,
                others()
            ));
        }
        if field.name.is_empty() {
            return Err(format!("the column {} has no name: say which columns have values{}", column + 1, others()));
        }
        Ok(())
    }

    fn note_unread(&self, read: &[Option<usize>], notes: &mut Vec<String>) {
        let read: HashSet<usize> = read.iter().copied().flatten().collect();
        let unread = (0..self.fields.len()).filter(|index| !read.contains(index));
        let names: Vec<String> = unread.map(|index| quoted(&self.fields[index].name)).collect();
        if !names.is_empty() {
            notes.push(format!("columns that are not read: {}", names.join(", ")));
        }
    }
}

/// A pattern that reads this text, or else one that shows what patterns are. Which of the day and the month comes first only a
/// person knows.
fn likely_pattern(example: &str) -> String {
    let dates = ["%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y%m%d", "%d-%m-%Y", "%d %b %Y", "%b %d, %Y"];
    let times = ["", " %H:%M", " %H:%M:%S", " %H:%M:%S%.f", "T%H:%M:%S", " %I:%M:%S %p"];
    let patterns = dates.into_iter().flat_map(|date| times.map(|time| format!("{date}{time}")));
    let reads = |pattern: &String| {
        TimeForm::parse(None, Some(pattern)).is_ok_and(|form| form.of_text(example, 0, &ANY_TIME).is_ok())
    };
    patterns.into_iter().find(reads).unwrap_or_else(|| "%d.%m.%Y %H:%M:%S".to_owned())
}

/// A name as a shell takes it.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) { name.to_owned() } else { format!("{name:?}") }
}
