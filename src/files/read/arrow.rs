//! The rows of a record batch of Arrow, which Parquet is read as, too.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, LargeStringArray, PrimitiveArray, RecordBatch, StringArray, StringViewArray,
};
use arrow_schema::{DataType, Schema, TimeUnit};

use super::csv::put_time_of_text;
use super::encode::{Cells, Emitter};
use super::fields::{AsTime, Field};
use super::json::{put, put_double, put_text};
use super::layout::CellTime;
use super::{ReadError, content::Content};
use crate::message::timestamp::Unit;

/// The columns of a schema.
pub(super) fn fields_of(schema: &Schema) -> Vec<Field> {
    let field = |field: &arrow_schema::FieldRef| {
        let data_type = value_type(field.data_type());
        let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let is_integer = data_type.is_integer();
        let is_number = is_integer || data_type.is_floating() || data_type.is_decimal();
        let as_time = match data_type {
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => AsTime::Typed,
            DataType::Null => AsTime::Unseen,
            _ if is_text => AsTime::Text,
            _ if is_number => AsTime::Number,
            _ => AsTime::Never,
        };
        Field {
            name: field.name().clone(),
            kind: format!("of the type {}", field.data_type()),
            as_time,
            is_value: is_number || matches!(data_type, DataType::Boolean | DataType::Null),
            is_name: is_text || is_integer,
            example: None,
        }
    };
    schema.fields().iter().map(field).collect()
}

/// The type of a column's values, also if they are in a dictionary.
fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// The unit of the numbers that a time column has.
pub(super) fn unit_of(schema: &Schema, column: usize, form: &CellTime) -> Unit {
    match (form, value_type(schema.field(column).data_type())) {
        (CellTime::Number(unit), _) => *unit,
        (CellTime::Typed, DataType::Timestamp(TimeUnit::Second, _) | DataType::Date32) => Unit::Seconds,
        (CellTime::Typed, DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64) => Unit::Milliseconds,
        (CellTime::Typed, DataType::Timestamp(TimeUnit::Nanosecond, _)) => Unit::Nanoseconds,
        _ => Unit::Microseconds,
    }
}

/// Seconds in a day.
const DAY_S: i64 = 86_400;

/// A column of a batch.
enum Column {
    Double(PrimitiveArray<Float64Type>),
    Single(PrimitiveArray<Float32Type>),
    Half(PrimitiveArray<Float16Type>),
    Signed(Box<dyn Fn(usize) -> i64>),
    Unsigned(PrimitiveArray<UInt64Type>),
    Boolean(BooleanArray),
    /// Numbers that are written with all their digits.
    Decimal(Box<dyn Fn(usize) -> String>),
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
    /// Values that are named by numbers.
    Dictionary(Vec<usize>, Box<Self>, ArrayRef),
    /// Only null.
    Empty,
}

impl Column {
    fn new(array: &ArrayRef) -> Option<Self> {
        /// Whole numbers of a type, also as what times and dates are stored as.
        macro_rules! signed {
            ($type:ty) => {{
                let array = array.as_primitive_opt::<$type>()?.clone();
                Self::Signed(Box::new(move |row| i64::from(array.value(row))))
            }};
        }
        macro_rules! decimal {
            ($type:ty) => {{
                let array = array.as_primitive_opt::<$type>()?.clone();
                Self::Decimal(Box::new(move |row| array.value_as_string(row)))
            }};
        }
        Some(match array.data_type() {
            DataType::Float64 => Self::Double(array.as_primitive_opt()?.clone()),
            DataType::Float32 => Self::Single(array.as_primitive_opt()?.clone()),
            DataType::Float16 => Self::Half(array.as_primitive_opt()?.clone()),
            DataType::Int8 => signed!(Int8Type),
            DataType::Int16 => signed!(Int16Type),
            DataType::Int32 => signed!(Int32Type),
            DataType::Int64 => signed!(Int64Type),
            DataType::UInt8 => signed!(UInt8Type),
            DataType::UInt16 => signed!(UInt16Type),
            DataType::UInt32 => signed!(UInt32Type),
            DataType::UInt64 => Self::Unsigned(array.as_primitive_opt()?.clone()),
            DataType::Timestamp(TimeUnit::Second, _) => signed!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => signed!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => signed!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => signed!(TimestampNanosecondType),
            DataType::Date32 => {
                let array = array.as_primitive_opt::<Date32Type>()?.clone();
                Self::Signed(Box::new(move |row| i64::from(array.value(row)) * DAY_S))
            }
            DataType::Date64 => signed!(Date64Type),
            DataType::Boolean => Self::Boolean(array.as_boolean_opt()?.clone()),
            DataType::Decimal32(..) => decimal!(Decimal32Type),
            DataType::Decimal64(..) => decimal!(Decimal64Type),
            DataType::Decimal128(..) => decimal!(Decimal128Type),
            DataType::Decimal256(..) => decimal!(Decimal256Type),
            DataType::Utf8 => Self::Text(array.as_string_opt()?.clone()),
            DataType::LargeUtf8 => Self::LargeText(array.as_string_opt()?.clone()),
            DataType::Utf8View => Self::TextView(array.as_string_view_opt()?.clone()),
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary_opt()?;
                let values = dictionary.values();
                let keys = if values.is_empty() { vec![0; array.len()] } else { dictionary.normalized_keys() };
                Self::Dictionary(keys, Box::new(Self::new(values)?), values.clone())
            }
            DataType::Null => Self::Empty,
            _ => return None,
        })
    }

    /// The text of a row, if it is one.
    fn text(&self, row: usize) -> Option<&str> {
        match self {
            Self::Text(array) => Some(array.value(row)),
            Self::LargeText(array) => Some(array.value(row)),
            Self::TextView(array) => Some(array.value(row)),
            _ => None,
        }
    }

    fn put(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Double(array) => put_double(array.value(row), out),
            Self::Single(array) => put_double(f64::from(array.value(row)), out),
            Self::Half(array) => put_double(array.value(row).to_f64(), out),
            Self::Signed(value) => put(format_args!("{}", value(row)), out),
            Self::Unsigned(array) => put(format_args!("{}", array.value(row)), out),
            Self::Boolean(array) => out.push(if array.value(row) { b'1' } else { b'0' }),
            Self::Decimal(value) => out.extend_from_slice(value(row).as_bytes()),
            Self::Text(_) | Self::LargeText(_) | Self::TextView(_) => put_text(self.text(row).unwrap_or_default(), out),
            Self::Dictionary(..) | Self::Empty => out.extend_from_slice(b"null"),
        }
    }
}

/// A column, and its nulls.
struct Cell {
    array: ArrayRef,
    column: Column,
}

impl Cell {
    /// The column and the row of it that have the value of this row; `None` if it is null.
    fn at(&self, row: usize) -> Option<(&Column, usize)> {
        if self.array.is_null(row) {
            return None;
        }
        match &self.column {
            Column::Dictionary(keys, values, array) => {
                let key = keys.get(row).copied().filter(|key| *key < array.len() && array.is_valid(*key))?;
                Some((values, key))
            }
            Column::Empty => None,
            column => Some((column, row)),
        }
    }
}

/// The cells of one row of a batch.
struct Row<'a> {
    /// By the number of the column in the file; `None` for those that are not read.
    cells: &'a [Option<Cell>],
    row: usize,
}

impl Row<'_> {
    fn at(&self, column: usize) -> Option<(&Column, usize)> {
        self.cells.get(column)?.as_ref()?.at(self.row)
    }
}

impl Cells for Row<'_> {
    fn put_time(&self, column: usize, form: &CellTime, out: &mut Vec<u8>) {
        let Some((column, row)) = self.at(column) else {
            out.extend_from_slice(b"null");
            return;
        };
        match (column.text(row), form) {
            (Some(text), _) => put_time_of_text(text, form, out),
            (None, CellTime::Pattern(..)) => {
                let mut number = Vec::new();
                column.put(row, &mut number);
                put_time_of_text(&String::from_utf8_lossy(&number), form, out);
            }
            (None, _) => column.put(row, out),
        }
    }

    fn put_value(&self, column: usize, out: &mut Vec<u8>) {
        match self.at(column) {
            Some((column, row)) => column.put(row, out),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn put_name(&self, column: usize, out: &mut Vec<u8>) {
        match self.at(column) {
            Some((column @ (Column::Signed(_) | Column::Unsigned(_)), row)) => {
                out.push(b'"');
                column.put(row, out);
                out.push(b'"');
            }
            Some((column, row)) => column.put(row, out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

/// Gives the rows of a batch from the one at `skip` on. `numbers` are those of its columns in the file.
pub(super) fn emit(
    content: &Content,
    batch: &RecordBatch,
    numbers: &[usize],
    skip: usize,
    emitter: &mut Emitter<'_>,
) -> Result<(), ReadError> {
    let mut cells: Vec<Option<Cell>> = Vec::new();
    cells.resize_with(numbers.iter().max().map_or(0, |last| last + 1), || None);
    for (array, number) in batch.columns().iter().zip(numbers) {
        let column = Column::new(array).ok_or_else(|| {
            ReadError::damaged(content.path(), emitter.row, format!("a column is of the type {}", array.data_type()))
        })?;
        cells[*number] = Some(Cell { array: array.clone(), column });
    }
    for row in skip..batch.num_rows() {
        emitter.emit(&Row { cells: &cells, row })?;
    }
    Ok(())
}
