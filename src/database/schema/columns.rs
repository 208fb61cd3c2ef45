//! The types of the columns that COPY writes. Its binary format is for exactly these: with others the server misreads the
//! bytes, or reports a protocol violation.

/// The columns, with the types that the binary format is for; a domain over one is accepted, too.
pub(super) const WRITTEN: [(&str, &[&str]); 4] = [
    ("time_series_id", TEXT),
    // Both are microseconds since 2000; without a zone they are those of UTC.
    ("timestamp", &["timestamp with time zone", "timestamp without time zone"]),
    ("column_name", TEXT),
    ("value", &["double precision"]),
];

/// The types whose binary format is that of text.
const TEXT: &[&str] = &["text", "character varying"];

/// A query of the table's columns, each followed by a tab and its type.
pub(in crate::database) const COLUMNS: &str = "
    with recursive base as (
        select attname::text as name, atttypid as type from pg_attribute
        where attrelid = 'time_series_data_points'::regclass and attnum > 0 and not attisdropped
        union all
        select base.name, pg_type.typbasetype from base join pg_type on pg_type.oid = base.type
        where pg_type.typtype = 'd'
    )
    select name || e'\\t' || format_type(type, null) from base join pg_type on pg_type.oid = type where typtype <> 'd'";

/// A column that is of another type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "column {column} of time_series_data_points is of type {found}, and the program writes {expected}: alter it back"
)]
pub struct OtherType {
    /// The column.
    pub column: String,
    /// Its type; `none` if there is no such column.
    pub found: String,
    /// The type that it was made with.
    pub expected: &'static str,
}

/// The first column that is of another type, of the rows of [`COLUMNS`].
pub(in crate::database) fn other_type(columns: &[String]) -> Option<OtherType> {
    WRITTEN.iter().find_map(|(column, expected)| {
        let found = columns.iter().find_map(|line| line.strip_prefix(column)?.strip_prefix('\t')).unwrap_or("none");
        (!expected.contains(&found)).then(|| OtherType {
            column: (*column).to_owned(),
            found: found.to_owned(),
            expected: expected[0],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_column_of_another_type_is_named() {
        let lines = |value: &str| {
            [
                "id\tbigint",
                "value_more\ttext",
                "time_series_id\ttext",
                "timestamp\ttimestamp with time zone",
                "column_name\ttext",
            ]
            .into_iter()
            .chain((!value.is_empty()).then_some(value))
            .map(str::to_owned)
            .collect::<Vec<_>>()
        };
        assert_eq!(other_type(&lines("value\tdouble precision")), None);
        let found = |value| other_type(&lines(value)).map(|other| (other.column, other.found));
        assert_eq!(found("value\tbigint"), Some(("value".to_owned(), "bigint".to_owned())));
        assert_eq!(found(""), Some(("value".to_owned(), "none".to_owned())));
    }
}
