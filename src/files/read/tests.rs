//! What each format reads, to the last bit, and what is refused with which words.

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Decimal128Builder, StringDictionaryBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, StringViewArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt8Array, UInt64Array,
};
use arrow_schema::{Field, Schema};

use super::options::ReadOptions;
use super::table::Table;
use super::{ReadError, Rows};
use crate::files::{Form, Format};
use crate::input::native::NativeDecoder;
use crate::message::{Limits, Points};
use crate::raw::Kind;

const LIMITS: Limits = Limits {
    max_bytes: 1 << 20,
    max_points: 100_000,
    max_name_bytes: 1024,
    min_us: -62_135_596_800_000_000,
    max_us: 7_258_118_400_000_000,
    deny_unknown_fields: true,
};

/// What the messages of a file become.
#[derive(Debug, Default)]
struct Got {
    /// Series, column, time in microseconds, bits.
    points: Vec<(String, String, i64, u64)>,
    /// Row, partition and why.
    rejected: Vec<(i64, i32, String)>,
    rows: i64,
    messages: usize,
}

struct Decoding {
    decoder: NativeDecoder,
    got: Got,
}

impl Rows for Decoding {
    fn wants(&mut self, _: i64, _: i32) -> bool {
        true
    }

    fn put(&mut self, row: i64, partition: i32, payload: &[u8], points: usize) {
        self.got.messages += 1;
        let mut decoded = Points::default();
        match self.decoder.decode(Kind::Points, Some(payload), &mut decoded) {
            Ok(_) => {
                assert_eq!(decoded.len(), points, "{}", String::from_utf8_lossy(payload));
                let shown = |index| {
                    let (series, column, time, value) = decoded.get(index);
                    (series.to_owned(), column.to_owned(), time, value.to_bits())
                };
                self.got.points.extend((0..decoded.len()).map(shown));
            }
            Err(why) => self.got.rejected.push((row, partition, why.detail)),
        }
    }

    fn end_row(&mut self, row: i64, _: Range<usize>) -> Result<(), ReadError> {
        self.got.rows = row;
        Ok(())
    }

    fn end(&mut self, last: i64, _: Range<usize>) -> Result<(), ReadError> {
        self.got.rows = last;
        Ok(())
    }

    fn first_wanted(&self, _: Range<usize>) -> i64 {
        1
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn options() -> ReadOptions {
    ReadOptions { series: Some("s".to_owned()), max_columns: 1000, max_bytes: 40 * 1024, ..ReadOptions::default() }
}

fn read(path: &Path, options: &ReadOptions) -> (Got, Result<(), ReadError>) {
    let table = Table::open(path, options).unwrap_or_else(|error| panic!("{error}"));
    let mut decoding = Decoding { decoder: NativeDecoder::new(LIMITS), got: Got::default() };
    let result = table.read(&mut decoding);
    (decoding.got, result)
}

fn whole(path: &Path, options: &ReadOptions) -> Got {
    let (got, result) = read(path, options);
    result.unwrap_or_else(|error| panic!("{error}"));
    got
}

/// Why a file is refused before anything of it is read.
fn refused(path: &Path, options: &ReadOptions) -> String {
    match Table::open(path, options) {
        Err(error @ ReadError::Unclear { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn point(column: &str, time_us: i64, value: f64) -> (String, String, i64, u64) {
    ("s".to_owned(), column.to_owned(), time_us, value.to_bits())
}

/// 2012-01-01, in microseconds.
const DAY: i64 = 1_325_376_000_000_000;

fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn arrow_file(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn doubles_are_the_same_in_all_formats() {
    let values = [0.1, -0.0, 5e-324, f64::MAX, f64::MIN_POSITIVE, 1e16, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    let random = (0..500_u64).map(|n| f64::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)));
    let values: Vec<f64> = values.into_iter().chain(random).map(|v| if v.is_nan() { f64::NAN } else { v }).collect();
    let times: Vec<i64> = (0..).map(|row| DAY + row * 1_000_001).take(values.len()).collect();
    let expected: Vec<_> = times.iter().zip(&values).map(|(time, value)| point("a", *time, *value)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("t", Arc::new(TimestampMicrosecondArray::from(times.clone()).with_timezone("UTC"))),
        ("a", Arc::new(Float64Array::from(values.clone()))),
    ];
    let arrow = batch(columns);
    let text = |time: &i64| jiff::Timestamp::from_microsecond(*time).unwrap().to_string();
    let rows = || times.iter().zip(&values);
    let csv = "t,a\n".to_owned() + &rows().map(|(t, v)| format!("{},{v:?}\n", text(t))).collect::<String>();
    let json = |v: &f64| match *v {
        v if v.is_nan() => "null".to_owned(),
        v if v.is_infinite() => format!("\"{}Infinity\"", if v < 0.0 { "-" } else { "" }),
        v => format!("{v:?}"),
    };
    let lines: String = rows().map(|(t, v)| format!("{{\"t\":\"{}\",\"a\":{}}}\n", text(t), json(v))).collect();
    let folder = Folder::new();
    for (name, bytes) in [
        ("a.parquet", parquet(&arrow)),
        ("a.arrow", arrow_file(&arrow)),
        ("a.arrows", stream(&arrow)),
        ("a.csv.gz", [gzip(csv.as_bytes()), gzip(b"\n")].concat()),
        ("a.csv.zst", zstd::encode_all(csv.as_bytes(), 1).unwrap()),
        ("a.csv", csv.into_bytes()),
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        ("a.jsonl", lines.into_bytes()),
    ] {
        let got = whole(&folder.file(name, bytes), &options());
        assert!(got.points == expected, "{name}");
        assert_eq!((got.rows, got.rejected.len()), (values.len() as i64, 0), "{name}");
    }
}

#[test]
fn each_type_of_a_column_is_read() {
    let mut decimal = Decimal128Builder::new().with_precision_and_scale(20, 3).unwrap();
    decimal.append_value(-1_500);
    decimal.append_null();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("time", Arc::new(Date32Array::from(vec![15_340, -1]))),
        ("f32", Arc::new(Float32Array::from(vec![Some(0.1), None]))),
        ("i64", Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN]))),
        ("u8", Arc::new(UInt8Array::from(vec![255, 0]))),
        ("u64", Arc::new(UInt64Array::from(vec![u64::MAX, 1]))),
        ("bool", Arc::new(BooleanArray::from(vec![true, false]))),
        ("decimal", Arc::new(decimal.finish())),
    ];
    let all = batch(columns);
    let first = [f64::from(0.1_f32), i64::MAX as f64, 255.0, u64::MAX as f64, 1.0, -1.5];
    let second = [f64::NAN, i64::MIN as f64, 0.0, 1.0, 0.0, f64::NAN];
    let names = ["f32", "i64", "u8", "u64", "bool", "decimal"];
    let row = |time, values: [f64; 6]| names.into_iter().zip(values).map(move |(name, v)| point(name, time, v));
    let expected: Vec<_> = row(15_340 * 86_400_000_000, first).chain(row(-86_400_000_000, second)).collect();
    let folder = Folder::new();
    for (name, bytes) in [("a.parquet", parquet(&all)), ("a.arrow", arrow_file(&all))] {
        assert_eq!(whole(&folder.file(name, bytes), &options()).points, expected, "{name}");
    }

    let ns = 1_325_376_000_123_456_789_i64;
    let arrays: [(ArrayRef, i64); 4] = [
        (Arc::new(TimestampSecondArray::from(vec![1_325_376_000])), DAY),
        (Arc::new(TimestampMillisecondArray::from(vec![1_325_376_000_123]).with_timezone("+05:30")), DAY + 123_000),
        (Arc::new(TimestampNanosecondArray::from(vec![ns])), DAY + 123_456),
        (Arc::new(StringArray::from(vec!["2012-01-01T01:00:00+01:00"])), DAY),
    ];
    for (array, expected) in arrays {
        let kind = array.data_type().to_string();
        let one = batch(vec![("t", array), ("v", Arc::new(Int64Array::from(vec![7])))]);
        let options = ReadOptions { time_column: Some("t".to_owned()), ..options() };
        let got = whole(&folder.file("t.parquet", parquet(&one)), &options);
        assert_eq!(got.points, [point("v", expected, 7.0)], "{kind}");
    }
    let one = batch(vec![
        ("t", Arc::new(Int64Array::from(vec![1_325_376_000_000]))),
        ("v", Arc::new(Int64Array::from(vec![7]))),
    ]);
    let path = folder.file("i.parquet", parquet(&one));
    let mut with_unit = ReadOptions { time_column: Some("t".to_owned()), ..options() };
    assert!(refused(&path, &with_unit).contains("--time-unit s, ms, us or ns"), "{}", refused(&path, &with_unit));
    with_unit.set_time(Some("ms"), None).unwrap();
    assert_eq!(whole(&path, &with_unit).points, [point("v", DAY, 7.0)]);
}

#[test]
fn long_rows_name_their_series_and_columns_in_any_kind_of_text() {
    let mut names = StringDictionaryBuilder::<Int32Type>::new();
    ["x", "y", "x"].into_iter().for_each(|name| names.append_value(name));
    names.append_null();
    let times = TimestampMicrosecondArray::from(vec![DAY, DAY + 1, DAY + 2, DAY + 3]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("series", Arc::new(LargeStringArray::from(vec!["a", "a", "b\"\n", "c"]))),
        ("timestamp", Arc::new(times)),
        ("column", Arc::new(names.finish())),
        ("value", Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0), Some(4.0)]))),
    ];
    let folder = Folder::new();
    let path = folder.file("a.parquet", parquet(&batch(columns)));
    let options = ReadOptions { series: None, ..options() };
    let table = Table::open(&path, &options).unwrap();
    assert_eq!((table.form(), table.series()), (Form::Long, Err("series")));
    let got = whole(&path, &options);
    let of = |series: &str, column: &str, time, value: f64| {
        (series.to_owned(), column.to_owned(), DAY + time, value.to_bits())
    };
    assert_eq!(got.points, [of("a", "x", 0, 1.0), of("a", "y", 1, f64::NAN), of("b\"\n", "x", 2, 3.0)]);
    assert_eq!(got.rejected.len(), 1, "a point without a column: {got:?}");

    let views: Vec<(&str, ArrayRef)> = vec![
        ("time", Arc::new(TimestampMicrosecondArray::from(vec![DAY]))),
        ("variable", Arc::new(StringViewArray::from(vec!["a name that is longer than a view"]))),
        ("value", Arc::new(Int64Array::from(vec![1]))),
    ];
    let path = folder.file("v.arrow", arrow_file(&batch(views)));
    let got = whole(&path, &super::tests::options());
    assert_eq!(got.points, [point("a name that is longer than a view", DAY, 1.0)]);
    // Said to be wide, the names are no values.
    let wide = ReadOptions { form: Some(Form::Wide), ..super::tests::options() };
    assert!(refused(&path, &wide).contains("the column variable is of the type"), "{}", refused(&path, &wide));
}

#[test]
fn definitions_and_the_index_of_pandas_say_what_is_not_said() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("other", Arc::new(TimestampMicrosecondArray::from(vec![1]))),
        ("when", Arc::new(TimestampMicrosecondArray::from(vec![DAY]))),
        ("v", Arc::new(Int64Array::from(vec![1]))),
    ];
    let plain = batch(columns);
    let with = |pairs: &[(&str, &str)]| {
        let metadata: std::collections::HashMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let schema = Schema::new(plain.schema().fields().clone()).with_metadata(metadata);
        RecordBatch::try_new(Arc::new(schema), plain.columns().to_vec()).unwrap()
    };
    let folder = Folder::new();
    let v = ReadOptions { columns: vec!["v".to_owned()], series: None, ..options() };
    let defined = with(&[("series_ingest.series", r#"[{"id":"d","time_column":"when","labels":{"a":1}}]"#)]);
    for (name, bytes) in
        [("d.parquet", parquet(&defined)), ("d.arrow", arrow_file(&defined)), ("d.stream", stream(&defined))]
    {
        let path = folder.file(name, bytes);
        let got = whole(&path, &v);
        assert_eq!(got.points, [("d".to_owned(), "v".to_owned(), DAY, 1.0_f64.to_bits())], "{name}");
        let renamed = Table::open(&path, &ReadOptions { series: Some("e".to_owned()), ..v.clone() }).unwrap();
        let message = String::from_utf8(renamed.definitions()[0].clone()).unwrap();
        assert!(message.starts_with(r#"{"type":"series-create","id":"e","labels":{"a":1}"#), "{message}");
    }
    let indexed = with(&[("pandas", r#"{"index_columns": ["when"], "columns": []}"#)]);
    let got =
        whole(&folder.file("p.parquet", parquet(&indexed)), &ReadOptions { series: Some("s".to_owned()), ..v.clone() });
    assert_eq!(got.points, [point("v", DAY, 1.0)]);
    let path = folder.file("n.parquet", parquet(&plain));
    assert!(refused(&path, &options()).contains("several columns have times"), "{}", refused(&path, &options()));

    let csv = folder.file("x.csv", "when,v\n2012-01-01,1\n");
    folder.file("x.csv.series.json", r#"[{"id":"beside","time_column":"when"}]"#);
    let table = Table::open(&csv, &ReadOptions { series: None, ..options() }).unwrap();
    assert_eq!((table.series(), table.definitions().len()), (Ok("beside"), 1));
    folder.file("x.csv.series.json", "{");
    assert!(refused(&csv, &options()).contains("x.csv.series.json: is not a JSON array"));
}

#[test]
fn csv_is_read_as_programs_write_it() {
    let folder = Folder::new();
    let one = |text: &str| {
        let got = whole(&folder.file("a.csv", text), &options());
        assert_eq!(got.rejected, [], "{text:?}");
        got.points
    };
    let (a, b) = (point("a", DAY, 1.5), point("b", DAY, f64::NAN));
    assert_eq!(one("\u{feff}date,a,b\r\n2012-01-01,1.5,\r\n"), [a.clone(), b.clone()], "BOM and CRLF");
    assert_eq!(one("date;a;b\n\n2012-01-01;1.5;NA"), [a.clone(), b.clone()], "semicolons, a blank line, no line end");
    assert_eq!(one("\"date\"\t\"a\"\t\"b\"\n\"2012-01-01\"\t\"1.5\"\t\"\"\n"), [a.clone(), b.clone()], "tabs");
    let names = one("date,\" a \n\"\"x\"\"\",\"c,d\"\n2012-01-01,1,2\n");
    assert_eq!(names, [point(" a \n\"x\"", DAY, 1.0), point("c,d", DAY, 2.0)], "quotes in names");
    assert_eq!(one(",a\n2012-01-01 00:00:00+00,1.5\n"), std::slice::from_ref(&a), "an index without a name");
    assert_eq!(one("ts,a\n2012-01-01,1.5\n"), std::slice::from_ref(&a), "another name");
    assert_eq!(one("date,a\n"), [], "a header only");
    assert_eq!(one("x,date\n1,2012-01-01\n"), [point("x", DAY, 1.0)], "the time need not be first");
    let sql = "id,time_series_id,timestamp,column_name,value\n9,s,2012-01-01 00:00:00+00,a,1.5\n";
    let path = folder.file("sql.csv", sql);
    let table = Table::open(&path, &ReadOptions { series: None, ..options() }).unwrap();
    assert_eq!(table.form(), Form::Long);
    assert_eq!(table.notes(), ["columns that are not read: id"]);
    assert_eq!(whole(&path, &ReadOptions { series: None, ..options() }).points, std::slice::from_ref(&a));
    let mut german = ReadOptions { delimiter: Some(b';'), ..options() };
    german.set_time(None, Some("%d.%m.%Y %H:%M")).unwrap();
    assert_eq!(whole(&folder.file("g.csv", "date;a\n01.01.2012 00:00;1.5\n"), &german).points, [a]);
}

#[test]
fn rows_that_cannot_be_read_are_messages_that_say_so() {
    let folder = Folder::new();
    let text = b"date,a\n2012-01-01,1\n2012-01-02\n2012-01-03,x\n,1\n2012-01-05,\xff\n2012-01-06,2\n";
    let got = whole(&folder.file("a.csv", text), &options());
    assert_eq!(got.points.len(), 2);
    let rows: Vec<i64> = got.rejected.iter().map(|(row, ..)| *row).collect();
    assert_eq!((rows, got.rows), (vec![2, 3, 4, 5], 6));
    let lines = "{\"date\":\"2012-01-01\",\"a\":1}\n\n{\"date\":\n[1]\n{\"date\":\"2012-01-02\",\"a\":{}}\n\
                 {\"date\":\"2012-01-03\",\"a\":true,\"a\":1}\n{\"date\":\"2012-01-04\",\"a\":true}\n";
    let got = whole(&folder.file("a.jsonl", lines), &options());
    assert_eq!(got.points.len(), 2, "{got:?}");
    let rows: Vec<i64> = got.rejected.iter().map(|(row, ..)| *row).collect();
    assert_eq!(rows, [2, 3, 4, 5]);
    // A name that comes late is a column, too; for one that a line has not there is no point.
    let lines = "{\"date\":\"2012-01-01\",\"a\":-0}\n{\"b\":null,\"date\":\"2012-01-02\"}\n";
    let got = whole(&folder.file("b.jsonl", lines), &options());
    assert_eq!(got.points, [point("a", DAY, -0.0), point("b", DAY + 86_400_000_000, f64::NAN)]);
}

#[test]
fn what_is_not_understood_is_refused_with_what_to_say() {
    let folder = Folder::new();
    let file = |text: &str| folder.file("a.csv", text);
    let with = |change: fn(&mut ReadOptions)| {
        let mut options = options();
        change(&mut options);
        options
    };
    let cases: [(&str, ReadOptions, &str); 16] = [
        ("date,a\n2012-01-01,1\n", with(|o| o.series = None), "--series ID"),
        (
            "date,a\n2012-01-01,1\n",
            with(|o| o.time_column = Some("x".into())),
            "there is no such column; there are date, a",
        ),
        ("date,a\n2012-01-01,1\n", with(|o| o.columns = vec!["b".into()]), "--columns b: there is no such column"),
        ("date,a\n2012-01-01,1\n", with(|o| o.columns = vec!["date".into()]), "has the times or the series"),
        ("date,a\n2012-01-01,1\n", with(|o| o.series_column = None), ""),
        ("date,a\n1325376000,1\n", options(), "say their unit, --time-unit"),
        ("date,a\n2012/01/01 10:00,1\n", options(), "--time-format '%Y/%m/%d %H:%M'"),
        ("x,a\n1,1\n", options(), "no column is known to have the times"),
        (
            "date,a,w\n2012-01-01,1,rain\n",
            options(),
            "the column w is text (\"rain\"), and has no values: say which columns have, --columns a",
        ),
        ("date\n2012-01-01\n", options(), "no column with values"),
        ("date,,b\n2012-01-01,1,2\n", options(), "the column 2 has no name"),
        ("date,a,a\n2012-01-01,1,2\n", options(), "several columns have the name a"),
        ("date,a\n2012-01-01,1\n", with(|o| o.form = Some(Form::Long)), "--long: no column has the names"),
        ("[{\"a\":1}]", options(), "jq -c '.[]'"),
        ("", options(), "is empty"),
        ("\n\n", options(), "is empty"),
    ];
    for (text, options, words) in cases {
        if words.is_empty() {
            assert!(Table::open(&file(text), &options).is_ok());
            continue;
        }
        let why = refused(&file(text), &options);
        assert!(why.contains(words), "{text:?}: {why}");
    }
    for (bytes, words) in [
        (b"PK\x03\x04".as_slice(), "ZIP"),
        (b"BZh9", "bzip2"),
        (b"\xff\xfea\0", "UTF-16"),
        (b"\0\x01\x02", "neither CSV nor"),
        (b"a\xff,b\n", "not UTF-8"),
        (&gzip(b"PAR1"), "decompress it first"),
    ] {
        let why = refused(&folder.file("b", bytes), &options());
        assert!(why.contains(words), "{why}");
    }
    assert!(refused(Path::new("-"), &options()).contains("save it to a file"));
    assert!(refused(folder.0.path(), &options()).contains("directory"));
    assert!(matches!(Table::open(&folder.0.path().join("none"), &options()), Err(ReadError::Io { .. })));
    let said = with(|o| o.format = Some(Format::Parquet));
    assert!(refused(&file("date,a\n"), &said).contains("--format parquet: by its first bytes the file is csv"));
    let mut options = options();
    assert!(options.set_time(Some("m"), None).is_err() && options.set_time(None, Some("%Q")).is_err());
}

#[test]
fn what_stands_before_damage_is_given_and_the_place_is_named() {
    let folder = Folder::new();
    let csv = "date,a\n".to_owned() + &(0..50_000).map(|n| format!("2012-01-01,{n}\n")).collect::<String>();
    let stored = gzip(csv.as_bytes());
    for (name, bytes) in [
        ("a.csv.gz", stored[..stored.len() / 2].to_vec()),
        ("a.csv.zst", {
            let stored = zstd::encode_all(csv.as_bytes(), 1).unwrap();
            stored[..stored.len() / 2].to_vec()
        }),
    ] {
        let (got, result) = read(&folder.file(name, bytes), &options());
        let why = result.unwrap_err().to_string();
        assert!(got.rows > 100 && got.rows < 50_000, "{name}: {}", got.rows);
        assert!(got.points.iter().enumerate().all(|(n, point)| point.3 == (n as f64).to_bits()), "{name}");
        assert!(why.contains(&format!("after row {}: the compressed file ends in the middle", got.rows)), "{why}");
    }
    let open_quote = csv + "2012-01-01,\"" + &"x\n".repeat(9 << 20);
    let (got, result) = read(&folder.file("q.csv", open_quote), &options());
    assert_eq!(got.rows, 50_000);
    assert!(result.unwrap_err().to_string().contains("is a quote left open"));

    let times = TimestampMicrosecondArray::from_iter_values((0..20_000).map(|n| DAY + n));
    let values = Float64Array::from_iter_values((0..20_000).map(f64::from));
    let all = batch(vec![("t", Arc::new(times)), ("a", Arc::new(values))]);
    let whole = parquet(&all);
    for cut in [4, 8, whole.len() / 2, whole.len() - 5] {
        let opened = Table::open(&folder.file("a.parquet", &whole[..cut]), &options());
        assert!(matches!(opened, Err(ReadError::Damaged { .. })), "{opened:?}");
    }
    let stream = stream(&all);
    let (got, result) = read(&folder.file("a.arrows", &stream[..stream.len() - 1000]), &options());
    assert!(matches!(result, Err(ReadError::Damaged { .. })), "{result:?}, {}", got.rows);
}

#[test]
fn a_row_of_thousands_of_columns_is_several_messages_with_its_number() {
    const COLUMNS: usize = 2_500;
    let folder = Folder::new();
    let names: Vec<String> = (0..COLUMNS).map(|n| format!("c{n}")).collect();
    let csv = format!(
        "date,{}\n2012-01-01,{}\n2012-01-02\n",
        names.join(","),
        (0..COLUMNS).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
    );
    let mut columns: Vec<(&str, ArrayRef)> = vec![("date", Arc::new(TimestampMicrosecondArray::from(vec![DAY])))];
    columns.extend(
        names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.as_str(), Arc::new(Float64Array::from(vec![n as f64])) as ArrayRef)),
    );
    let expected: Vec<_> = names.iter().enumerate().map(|(n, name)| point(name, DAY, n as f64)).collect();
    let got = whole(&folder.file("a.csv", csv), &options());
    assert_eq!((got.points == expected, got.messages, got.rows), (true, 4, 2));
    assert_eq!(got.rejected.iter().map(|(row, partition, _)| (*row, *partition)).collect::<Vec<_>>(), [(2, 0)]);
    let got = whole(&folder.file("a.parquet", parquet(&batch(columns))), &options());
    assert_eq!((got.points == expected, got.messages, got.rows), (true, 3, 1));
}

#[test]
fn the_meaning_of_a_file_is_the_same_until_other_points_are_read() {
    let folder = Folder::new();
    let path = folder.file("a.csv", "date,a,b\n2012-01-01,1,2\n");
    let meaning = |options: &ReadOptions| {
        let table = Table::open(&path, options).unwrap();
        table.series_digest() + &table.meaning()
    };
    let found = meaning(&options());
    let said = ReadOptions {
        time_column: Some("date".to_owned()),
        columns: vec!["a".to_owned(), "b".to_owned()],
        form: Some(Form::Wide),
        delimiter: Some(b','),
        ..options()
    };
    assert_eq!(meaning(&said), found, "what is said is what was found");
    for other in [
        ReadOptions { series: Some("t".to_owned()), ..options() },
        ReadOptions { columns: vec!["a".to_owned()], ..options() },
        ReadOptions { skip_nulls: Some(true), ..options() },
        ReadOptions { max_columns: 1, ..options() },
    ] {
        assert_ne!(meaning(&other), found, "{other:?}");
    }
}

#[test]
fn nulls_are_skipped_if_that_is_said() {
    let folder = Folder::new();
    let path = folder.file("a.csv", "date,a,b\n2012-01-01,,2\n2012-01-02,,\n");
    let got = whole(&path, &ReadOptions { skip_nulls: Some(true), ..options() });
    assert_eq!((got.points, got.rejected, got.rows), (vec![point("b", DAY, 2.0)], vec![], 2));
}

#[test]
fn a_type_that_cannot_be_a_value_is_named() {
    let folder = Folder::new();
    let list = arrow_array::ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]);
    let field = Field::new("l", arrow_schema::DataType::clone(arrow_array::Array::data_type(&list)), true);
    let schema = Schema::new(vec![
        Field::new("t", arrow_schema::DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, None), true),
        field,
        Field::new("v", arrow_schema::DataType::Int64, true),
    ]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(TimestampMicrosecondArray::from(vec![DAY])), Arc::new(list), Arc::new(Int64Array::from(vec![7]))];
    let nested = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let path = folder.file("a.parquet", parquet(&nested));
    let why = refused(&path, &options());
    assert!(why.contains("the column l is of the type") && why.contains("--columns v"), "{why}");
    // Columns after it are still the right ones.
    let got = whole(&path, &ReadOptions { columns: vec!["v".to_owned()], ..options() });
    assert_eq!(got.points, [point("v", DAY, 7.0)]);
}
