use std::ffi::OsString;
use std::io::Write as _;

use proptest::prelude::*;
use toml::{Table, Value};

use super::*;

const DEFAULTS: &str = include_str!("../../config/default.toml");

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let file = file(text);
    Config::load(Some(file.path()), environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn from_environment(environment: &[(&str, &str)]) -> Result<Config, Problems> {
    Config::load(None, environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn url_of(environment: &[(&str, &str)]) -> String {
    from_environment(environment).unwrap().database.connection().expose().to_owned()
}

/// Fails unless the report contains each of `expected`, and `lines` problems.
#[track_caller]
fn assert_problems(result: Result<Config, Problems>, expected: &[&str]) {
    let report = result.unwrap_err().to_string();
    for text in expected {
        assert!(report.contains(text), "{text:?} is not in:\n{report}");
    }
    assert_eq!(report.lines().count() - 1, expected.len(), "{report}");
}

/// Every key with its kind, the open tables as one key each.
fn keys(prefix: &str, table: &Table) -> Vec<String> {
    table
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Table(inner) if !inner.is_empty() => keys(&format!("{prefix}{name}."), inner),
            value => vec![format!("{prefix}{name}: {}", value.type_str())],
        })
        .collect()
}

#[test]
fn the_defaults_are_valid_and_are_those_of_the_design() {
    let config = Config::load(None, []).unwrap();
    assert_eq!((config.pipeline.as_str(), config.kafka.brokers.as_str()), ("default", "localhost:9092"));
    assert_eq!((config.kafka.start, config.points.unknown_series), (StartAt::Earliest, UnknownSeries::Create));
    assert_eq!(
        (config.database.pool_size, config.database.max_overflow, config.database.pool_recycle_s),
        (5, 10, 3600)
    );
    assert_eq!((config.batch.max_bytes, config.memory.limit_bytes), (16 << 20, 256 << 20));
    assert_eq!((config.log.format, config.http.listen.as_str()), (LogFormat::Human, "127.0.0.1:9464"));
    assert!(config.database.url.is_empty() && !config.database.migrate_on_start);
    assert_eq!(config.kafka.properties().count(), 0);
}

#[test]
fn the_default_file_has_every_field_and_no_other_key() {
    let fields = Table::try_from(Config::load(None, []).unwrap()).unwrap();
    assert_eq!(keys("", &DEFAULTS.parse().unwrap()), keys("", &fields));
}

#[test]
fn every_key_of_the_default_file_has_a_comment() {
    let mut before = "";
    for line in DEFAULTS.lines() {
        assert!(!line.contains(" = ") || line.starts_with('#') || before.starts_with('#'), "{line}");
        before = line;
    }
}

#[test]
fn what_config_prints_loads_again_to_the_same_configuration() {
    let rendered = load("pipeline = \"two\"\n[kafka.properties]\nclient.rack = \"a\\n\\\"b\"\n", &[]).unwrap().render();
    let again = load(&rendered, &[]).unwrap();
    let table = |text: &str| text.parse::<Table>().unwrap();
    assert_eq!(table(&again.render()), table(&rendered));
    assert_eq!(again.kafka.properties().collect::<Vec<_>>(), [("client.rack", "a\n\"b")]);
}

#[test]
fn the_limits_of_messages_are_in_microseconds() {
    let text = "[message]\nmin_timestamp = \"1969-12-31T23:59:59Z\"\nmax_timestamp = \"1970-01-01T01:00:00.5+01:00\"";
    let limits = load(text, &[]).unwrap().message.limits();
    assert_eq!((limits.min_us, limits.max_us), (-1_000_000, 500_000));
    assert_eq!((limits.max_bytes, limits.max_points, limits.max_name_bytes), (1 << 20, 100_000, 1024));
}

#[test]
fn the_first_accepted_time_may_be_an_age() {
    let config = |age: &str| load(&format!("[message]\nmin_timestamp = '{age}'"), &[]);
    for (age, us) in
        [("-1s", 1_000_000), ("-12h", 43_200_000_000), ("-90d", 7_776_000_000_000), ("-2w", 1_209_600_000_000)]
    {
        let message = config(age).unwrap().message;
        assert_eq!((message.max_age_us(), message.limits().min_us), (Some(us), -62_135_596_800_000_000), "{age}");
        assert!(config(age).unwrap().render().contains(&format!("min_timestamp = \"{age}\"")), "{age}");
    }
    for wrong in ["-0d", "-5ms", "90d", "-90", "-1y", "-99999999999999w"] {
        assert_problems(config(wrong), &["message.min_timestamp (file "]);
    }
}

/// Late points would create chunks again that were deleted.
#[test]
fn a_retention_without_an_age_of_messages_is_noted() {
    let notes = |age: &str, drop_after_s: u64| {
        let text = format!("[message]\nmin_timestamp = '{age}'\n[retention]\ndrop_after_s = {drop_after_s}");
        load(&text, &[]).unwrap().notes()
    };
    assert_eq!([notes("-90d", 7_776_000), notes("-1d", 7_776_000), notes("1900-01-01T00:00:00Z", 0)].concat(), [""; 0]);
    for (age, drop_after_s) in [("1900-01-01T00:00:00Z", 7_776_000), ("-91d", 7_776_000)] {
        let found = notes(age, drop_after_s);
        assert!(found.len() == 1 && found[0].contains("set message.min_timestamp = \"-7776000s\""), "{found:?}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "
        pipelin = 'x'
        log = 3
        [kafka]
        start = 'never'
        points_topic = 'time-series.series'
        session_timeout_ms = 900
        [batch]
        max_points = 'many'
        linger_ms = -1
        [message]
        min_timestamp = 'yesterday'
        [nothing]
        a = 1
    ";
    let environment = [
        ("SERIES_INGEST__DATABASE__WRITERS", "16"),
        ("SERIES_INGEST__DATABASE__WRITER", "1"),
        ("SERIES_INGEST__HTTP__LISTEN", "9464"),
        ("SERIES_INGEST__SHUTDOWN__DRAIN_TIMEOUT_MS", "5 s"),
        ("DATABASE_MAX_OVERFLOW", "few"),
    ];
    assert_problems(
        load(text, &environment),
        &[
            "pipelin (file ",
            "log (file ",
            "unknown variant `never`, expected `earliest` or `latest`; set for instance \"earliest\"",
            "is the same as kafka.series_topic; set another one",
            "is 900; set 1000 to 300000",
            "is a string; it must be an integer",
            "is negative; set a value from 0 up",
            "message.min_timestamp (file ",
            "nothing (file ",
            "database.writers (SERIES_INGEST__DATABASE__WRITERS): is 16; set 1 to 15, pool_size + max_overflow, or 0 for as many as help",
            "SERIES_INGEST__DATABASE__WRITER: is not a key",
            "http.listen (SERIES_INGEST__HTTP__LISTEN): is \"9464\"; set host:port",
            "shutdown.drain_timeout_ms (SERIES_INGEST__SHUTDOWN__DRAIN_TIMEOUT_MS): is not an integer",
            "database.max_overflow (DATABASE_MAX_OVERFLOW): is not an integer",
            "shutdown.drain_timeout_ms: is 5000; set less than kafka.session_timeout_ms, which is 900",
        ],
    );
}

#[test]
fn a_value_out_of_its_range_is_a_problem() {
    for (section, setting) in [
        ("pipeline", "pipeline = ' '"),
        ("kafka.brokers", "[kafka]\nbrokers = ''"),
        ("kafka.group_id", "[kafka]\ngroup_id = ''"),
        ("kafka.series_topic", "[kafka]\nseries_topic = '^a'"),
        ("kafka.points_topic", "[kafka]\npoints_topic = '..'"),
        ("kafka.dead_letter_topic", "[kafka]\ndead_letter_topic = 'a b'"),
        ("kafka.dead_letter_topic", "[kafka]\ndead_letter_topic = 'time-series.points'"),
        ("kafka.dead_letter_topic", "[kafka]\ndead_letter_topic = 'time-series.series'"),
        ("dead_letter.max_rows", "[dead_letter]\nmax_rows = 1000000001"),
        ("dead_letter.max_attempts", "[dead_letter]\nmax_attempts = 0"),
        ("kafka.session_timeout_ms", "[kafka]\nsession_timeout_ms = 1800001"),
        ("database.url", "[database]\nurl = 'mysql://h'"),
        ("database.pool_size", "[database]\npool_size = 0"),
        ("database.pool_recycle_s", "[database]\npool_recycle_s = 0"),
        ("database.statement_timeout_ms", "[database]\nstatement_timeout_ms = 0"),
        ("database.keepalive_idle_ms", "[database]\nkeepalive_idle_ms = 999"),
        ("database.retry_max_ms", "[database]\nretry_max_ms = 99"),
        ("database.writers", "[database]\nwriters = 16"),
        ("database.migrate_on_start", "[database]\nmigrate_on_start = 'yes'"),
        ("database.chunk_interval_s", "[database]\nchunk_interval_s = 59"),
        ("database.compress_after_s", "[database]\ncompress_after_s = 0"),
        ("batch.max_points", "[batch]\nmax_points = 0"),
        ("batch.max_bytes", "[batch]\nmax_bytes = 67108865"),
        ("memory.limit_bytes", "[memory]\nlimit_bytes = 100663295"),
        ("message.max_bytes", "[message]\nmax_bytes = 67108865"),
        ("message.max_name_bytes", "[message]\nmax_name_bytes = 2001"),
        ("message.min_timestamp", "[message]\nmin_timestamp = '-000001-01-01T00:00:00Z'"),
        ("message.min_timestamp", "[message]\nmin_timestamp = 1900-01-01T00:00:00Z"),
        ("retention.drop_after_s", "[retention]\ndrop_after_s = 59"),
        ("retention.drop_after_s", "[retention]\ndrop_after_s = 3153600001"),
        ("message.max_timestamp", "[message]\nmax_timestamp = '1900-01-01T00:00:00Z'"),
        ("http.listen", "[http]\nlisten = ':9464'"),
        ("http.listen", "[http]\nlisten = '::1:9464'"),
        ("http.listen", "[http]\nlisten = 'a:65536'"),
        ("http.stall_ms", "[http]\nstall_ms = 0"),
        ("log.filter", "[log]\nfilter = ''"),
        ("shutdown.drain_timeout_ms", "[shutdown]\ndrain_timeout_ms = 45000"),
    ] {
        assert_problems(load(setting, &[]), &[&format!("\n  {section} (file ")]);
    }
    for listen in ["", "localhost:0", "0.0.0.0:9464", "[::1]:9464", "host.example:1"] {
        load(&format!("[http]\nlisten = '{listen}'"), &[]).unwrap();
    }
}

#[test]
fn a_file_that_is_not_toml_is_named_without_quoting_it() {
    let report = load("[database]\n\nurl = \"postgres://u:hunter2@h\nwriters = 1", &[]).unwrap_err().to_string();
    assert!(report.contains("line 3 is not TOML") && !report.contains("hunter2"), "{report}");
    let missing = Config::load(Some(Path::new("/nowhere/ingest.toml")), []);
    assert_problems(missing, &["--config (file /nowhere/ingest.toml): cannot be read"]);
}

#[test]
fn no_number_of_writers_is_chosen_by_the_load_and_never_none() {
    let range = |text: &str| load(text, &[]).unwrap().database.writer_range();
    assert_eq!(load("", &[]).unwrap().database.writers, Writers::Auto);
    assert_eq!(range(""), 1..=4);
    assert_eq!(range("[database]\nwriters = 3"), 3..=3);
    assert_eq!(range("[database]\npool_size = 1"), 1..=1);
    assert!(load("", &[]).unwrap().render().contains("writers = 0  #"));
}

#[test]
fn the_stronger_source_wins() {
    let text = "[database]\npool_size = 7\nwriters = 3\n[kafka]\nbrokers = 'file:1'";
    let config = load(text, &[("KAFKA_BROKERS", "name:1"), ("DATABASE_POOL_SIZE", "8")]).unwrap();
    assert_eq!(
        (config.database.pool_size, config.database.writers, config.kafka.brokers.as_str()),
        (8, Writers::Fixed(3), "name:1")
    );
    let environment = [
        ("KAFKA_BROKERS", "name:1"),
        ("SERIES_INGEST__KAFKA__BROKERS", "own:1"),
        ("SERIES_INGEST__PIPELINE", "second"),
        ("SERIES_INGEST__DATABASE__MIGRATE_ON_START", "true"),
        ("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter"),
        ("SERIES_INGEST__HTTP__LISTEN", ""),
        ("DATABASE_POOL_SIZE", ""),
    ];
    let config = load(text, &environment).unwrap();
    assert_eq!((config.kafka.brokers.as_str(), config.pipeline.as_str()), ("own:1", "second"));
    assert_eq!((config.database.migrate_on_start, config.points.unknown_series), (true, UnknownSeries::DeadLetter));
    assert_eq!((config.http.listen.as_str(), config.database.pool_size), ("", 7));
}

#[test]
fn a_pipeline_has_its_own_group_unless_one_is_set() {
    let group = |text: &str| load(text, &[]).unwrap().kafka.group_id;
    assert_eq!(group(""), "series-ingest");
    assert_eq!(group("pipeline = 'default'"), "series-ingest");
    assert_eq!(group("pipeline = 'second'"), "series-ingest-second");
    assert_eq!(group("pipeline = 'second'\n[kafka]\ngroup_id = 'series-ingest'"), "series-ingest");
}

#[test]
fn variables_that_cannot_be_read_are_problems() {
    for name in
        ["SERIES_INGEST__", "SERIES_INGEST__KAFKA", "SERIES_INGEST__kafka__brokers", "SERIES_INGEST__KAFKA__PROPERTIES"]
    {
        assert_problems(from_environment(&[(name, "x")]), &[&format!("\n  {name}: is not a key")]);
    }
    assert_problems(
        from_environment(&[
            ("SERIES_INGEST__DATABASE__MIGRATE_ON_START", "yes"),
            ("POSTGRES_PORT", "x"),
            ("POSTGRES_DB", "d"),
        ]),
        &[
            "(SERIES_INGEST__DATABASE__MIGRATE_ON_START): is not a boolean; set true or false",
            "POSTGRES_PORT: is not a port",
        ],
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_a_problem_where_it_is_ours() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = || OsString::from_vec(vec![0xff]);
    Config::load(None, [("OTHER".into(), bytes()), (bytes(), bytes())]).unwrap();
    assert_problems(Config::load(None, [("DATABASE_URL".into(), bytes())]), &["DATABASE_URL: is not UTF-8"]);
}

#[test]
fn the_url_is_taken_in_sqlalchemys_form() {
    for url in ["postgresql+asyncpg://u:p@h/d", "postgresql+psycopg2://u:p@h/d", "postgresql://u:p@h/d"] {
        assert_eq!(url_of(&[("DATABASE_URL", url), ("POSTGRES_HOST", "other")]), "postgresql://u:p@h/d");
    }
    assert_eq!(url_of(&[("SERIES_INGEST__DATABASE__URL", "postgres://h?a=+x")]), "postgres://h?a=+x");
    assert_problems(
        from_environment(&[("DATABASE_URL", "sqlite+x://h")]),
        &["database.url (DATABASE_URL): is not a URL"],
    );
}

#[test]
fn the_url_is_made_of_its_parts_where_there_is_no_other() {
    assert_eq!(
        url_of(&[
            ("POSTGRES_USER", "a b"),
            ("POSTGRES_PASSWORD", "p@ss:/ü"),
            ("POSTGRES_DB", "d/1"),
            ("POSTGRES_HOST", "/run/pg"),
            ("POSTGRES_PORT", "5433"),
        ]),
        "postgresql://a%20b:p%40ss%3A%2F%C3%BC@%2Frun%2Fpg:5433/d%2F1"
    );
    assert_eq!(url_of(&[("POSTGRES_USER", "u")]), "postgresql://u@127.0.0.1:5432/u");
    assert_eq!(url_of(&[("POSTGRES_DB", "d"), ("POSTGRES_PASSWORD", "p")]), "postgresql://127.0.0.1:5432/d?password=p");
    assert_eq!(url_of(&[("POSTGRES_PASSWORD", "p"), ("POSTGRES_PORT", "1")]), "");
    let own = ("SERIES_INGEST__DATABASE__URL", "postgres://own");
    assert_eq!(url_of(&[("POSTGRES_HOST", "h"), own]), "postgres://own");
    let config = load("[database]\nurl = 'postgres://file'", &[("POSTGRES_HOST", "h")]).unwrap();
    assert_eq!(config.database.url.expose(), "postgresql://h:5432/");
}

#[test]
fn commands_that_need_the_database_say_how_to_set_it() {
    let report = Config::load(None, []).unwrap().require_database().unwrap_err().to_string();
    assert!(report.contains("database.url: is not set; set DATABASE_URL, or POSTGRES_HOST"), "{report}");
    from_environment(&[("DATABASE_URL", "postgres://h")]).unwrap().require_database().unwrap();
}

#[test]
fn another_url_can_be_put_in_its_place() {
    let database = from_environment(&[("DATABASE_URL", "postgres://h")]).unwrap().database;
    let other = Database { url: Secret::new("postgres://other".to_owned()), ..database };
    assert_eq!(other.connection().expose(), "postgres://other");
}

#[test]
fn the_url_and_its_password_can_come_from_files() {
    let url = file("postgresql+asyncpg://u@h/d?sslmode=disable\r\n");
    let password = file("p&ss \n\n");
    let text = format!("[database]\nurl_file = {:?}\npassword_file = {:?}", url.path(), password.path());
    let config = load(&text, &[]).unwrap();
    assert_eq!(config.database.connection().expose(), "postgresql://u@h/d?sslmode=disable&password=p%26ss%20");
    let config = load(&text, &[("DATABASE_URL", "postgres://u@strong")]).unwrap();
    assert_eq!(config.database.connection().expose(), "postgres://u@strong?password=p%26ss%20");
    let weak =
        [("DATABASE_URL", "postgres://weak"), ("SERIES_INGEST__DATABASE__URL_FILE", url.path().to_str().unwrap())];
    assert_eq!(url_of(&weak), "postgresql://u@h/d?sslmode=disable");
}

#[test]
fn a_secret_file_that_cannot_count_is_a_problem() {
    let (url, empty) = (file("postgres://u:p@h"), file("\n"));
    let (url, empty) = (url.path().to_str().unwrap(), empty.path().to_str().unwrap());
    for (settings, expected) in [
        (format!("url = 'postgres://h'\nurl_file = '{url}'"), "database.url is set too"),
        (format!("url_file = '{url}'\npassword_file = '{url}'"), "the URL of the database has a password too"),
        (
            format!("url = 'postgres://h?password=p'\npassword_file = '{url}'"),
            "the URL of the database has a password too",
        ),
        (format!("url = 'postgres://h'\npassword_file = '{empty}'"), "is empty; write the secret into it"),
        ("url_file = '/nowhere/url'".to_owned(), "\"/nowhere/url\" cannot be read"),
        ("url_file = '/dev/zero'".to_owned(), "\"/dev/zero\" cannot be read: it has more than 1048576 bytes"),
    ] {
        assert_problems(load(&format!("[database]\n{settings}"), &[]), &[expected]);
    }
}

#[test]
fn properties_come_from_tables_variables_and_files() {
    let secret = file("hunter2\n");
    let text = format!(
        "[kafka.properties]\n\"security.protocol\" = 'SASL_SSL'\nsasl.username = 'me'\nenable.ssl.certificate.verification = false\n\
         socket.timeout.ms = 1000\n[kafka.properties_files]\nsasl.password = {:?}",
        secret.path()
    );
    let environment = [
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_USERNAME", "you"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__LOG_LEVEL", "7"),
    ];
    let config = load(&text, &environment).unwrap();
    let mut properties: Vec<_> = config.kafka.properties().collect();
    properties.sort_unstable();
    assert_eq!(
        properties,
        [
            ("enable.ssl.certificate.verification", "false"),
            ("log_level", "7"),
            ("sasl.password", "hunter2"),
            ("sasl.username", "you"),
            ("security.protocol", "SASL_SSL"),
            ("socket.timeout.ms", "1000"),
        ]
    );
    let stronger = load(&text, &[("SERIES_INGEST__KAFKA__PROPERTIES__SASL_PASSWORD", "other")]).unwrap();
    assert!(stronger.kafka.properties().any(|property| property == ("sasl.password", "other")));
    assert!(!stronger.kafka.properties().any(|property| property == ("sasl.password", "hunter2")));
}

#[test]
fn properties_that_the_guarantee_rests_on_are_refused() {
    for name in ["enable.auto.commit", "bootstrap.servers", "group.instance.id", "rebalance_cb", "plugin.library.paths"]
    {
        let expected = format!("\n  kafka.properties.{name} (file ");
        assert_problems(load(&format!("[kafka.properties]\n'{name}' = 'x'"), &[]), &[&expected]);
    }
    let report = from_environment(&[("SERIES_INGEST__KAFKA__PROPERTIES__GROUP_ID", "g")]).unwrap_err().to_string();
    assert!(report.contains("PROPERTIES__GROUP_ID): cannot be set: set kafka.group_id instead; remove it"), "{report}");
    load("[kafka.properties]\nclient.id = 'x'", &[]).unwrap();
}

#[test]
fn a_property_that_is_unclear_is_a_problem() {
    assert_problems(load("[kafka.properties]\n'a.b' = 1\na.b = 2", &[]), &["kafka.properties.a.b (file "]);
    assert_problems(load("[kafka.properties]\na = 1.5", &[]), &["must be a string, an integer or a boolean"]);
    assert_problems(load("[kafka.properties_files]\na = 1", &[]), &["must be the path of a file"]);
    let file = file("x");
    let both = format!("[kafka.properties]\na = 1\n[kafka.properties_files]\na = {:?}", file.path());
    assert_problems(load(&both, &[]), &["kafka.properties.a is set too; set one of them"]);
}

#[test]
fn the_rendered_configuration_names_the_sources() {
    let file = file("[batch]\nlinger_ms = 50\n[kafka.properties]\nsasl.password = 'hunter2'\nclient.rack = 'r1'");
    let environment = [("DATABASE_URL", "postgresql://u:hunter2@h/d"), ("SERIES_INGEST__PIPELINE", "second")];
    let environment = environment.map(|(name, value)| (name.into(), value.into()));
    let rendered = Config::load(Some(file.path()), environment).unwrap().render();
    let source = file.path().display();
    for line in [
        "pipeline = \"second\"  # SERIES_INGEST__PIPELINE",
        "[batch]",
        &format!("linger_ms = 50  # file {source}"),
        "max_points = 200000  # default",
        "[kafka.properties]",
        &format!("\"sasl.password\" = \"***\"  # file {source}"),
        &format!("\"client.rack\" = \"r1\"  # file {source}"),
        "url = \"postgresql://u:***@h/d\"  # DATABASE_URL",
        "min_timestamp = \"1900-01-01T00:00:00Z\"  # default",
    ] {
        assert!(rendered.lines().any(|other| other == line), "{line:?} is not in:\n{rendered}");
    }
}

fn tls_of(environment: &[(&str, &str)]) -> Tls {
    from_environment(environment).unwrap().database.tls().unwrap()
}

#[test]
fn tls_is_as_the_url_or_the_keys_say_and_where_neither_says_anything_the_host_decides() {
    const MODE: &str = "SERIES_INGEST__DATABASE__SSLMODE";
    const ROOT: &str = "SERIES_INGEST__DATABASE__SSLROOTCERT";
    let file = |path: &str| Authorities::File(path.to_owned());
    for (url, mode, authorities) in [
        ("postgresql://u:p@h/d", SslMode::Auto, Authorities::System),
        ("postgresql://u:p@h/d?sslmode=disable", SslMode::Disable, Authorities::System),
        ("postgresql://u:p@h/d?connect_timeout=3&sslmode=prefer", SslMode::Prefer, Authorities::System),
        ("postgresql://u:p@h/d?sslmode=require", SslMode::Require, Authorities::System),
        ("postgresql://u:p@h/d?sslmode=require&sslrootcert=/a%20b.pem", SslMode::VerifyCa, file("/a b.pem")),
        ("postgresql://u:p@h/d?sslmode=verify-ca&sslrootcert=c.pem", SslMode::VerifyCa, file("c.pem")),
        ("postgresql://u:p@h/d?sslrootcert=c.pem", SslMode::VerifyFull, file("c.pem")),
        ("postgresql://u:p@h/d?sslrootcert=system&sslmode=verify-full", SslMode::VerifyFull, Authorities::System),
    ] {
        let tls = tls_of(&[("DATABASE_URL", url)]);
        assert_eq!((tls.mode, tls.authorities), (mode, authorities), "{url}");
    }
    let by_keys = tls_of(&[("DATABASE_URL", "postgres://h"), (MODE, "verify-ca"), (ROOT, "c.pem")]);
    assert_eq!((by_keys.mode, by_keys.authorities), (SslMode::VerifyCa, file("c.pem")));
    let by_both = tls_of(&[("DATABASE_URL", "postgres://h?sslmode=verify-full"), (MODE, "verify-full"), (ROOT, "c")]);
    assert_eq!((by_both.mode, by_both.authorities), (SslMode::VerifyFull, file("c")));
    let client = tls_of(&[("DATABASE_URL", "postgres://h?sslcert=c.pem&sslkey=k.pem")]);
    assert_eq!((client.mode, client.client), (SslMode::VerifyFull, Some(("c.pem".to_owned(), "k.pem".to_owned()))));
}

#[test]
fn what_would_make_tls_weaker_than_it_looks_is_a_problem() {
    for (query, expected) in [
        ("sslmode=allow", "database.sslmode (DATABASE_URL): allow"),
        ("sslmode=VERIFY-FULL", "set disable, prefer, require, verify-ca or verify-full"),
        ("sslmode=disable&sslmode=verify-full", "is both \"disable\" (the URL's sslmode) and \"verify-full\""),
        ("sslmode=prefer&sslrootcert=c.pem", "has no effect with sslmode prefer"),
        ("sslmode=disable&sslcert=c.pem&sslkey=k.pem", "has no effect with sslmode disable"),
        ("sslmode=verify-ca&sslrootcert=system", "set sslmode to verify-full"),
        ("sslcert=c.pem", "database.sslkey"),
        ("sslkey=k.pem", "database.sslcert"),
    ] {
        let expected = expected.replace(" (DATABASE_URL)", "");
        assert_problems(from_environment(&[("DATABASE_URL", &format!("postgres://h/d?{query}"))]), &[&expected]);
    }
    assert_problems(
        from_environment(&[
            ("DATABASE_URL", "postgres://h/d?sslmode=disable"),
            ("SERIES_INGEST__DATABASE__SSLMODE", "verify-full"),
        ]),
        &["database.sslmode (SERIES_INGEST__DATABASE__SSLMODE): is both \"disable\""],
    );
}

#[test]
fn the_driver_gets_the_url_without_what_is_about_tls() {
    for (url, expected) in [
        ("postgres://h", "postgres://h"),
        ("postgres://u:p?sslmode=x@h/d?sslmode=disable", "postgres://u:p?sslmode=x@h/d"),
        ("postgres://h/d?a=b&sslmode=require&sslrootcert=c&password=p", "postgres://h/d?a=b&password=p"),
    ] {
        assert_eq!(url::without_parameters(url, &tls::PARAMETERS), expected);
    }
}

#[test]
fn a_raw_character_in_a_url_is_refused_without_showing_the_password() {
    for (url, expected) in [
        (
            "postgresql://user:pa@hunter2@h/d",
            "a raw @ in its user, password or parameters (write %40); percent-encode it, or use password_file",
        ),
        ("postgresql://user:pa:hunter2@h/d", "a raw : in its"),
        ("postgresql://user:pa/hunter2@h/d", "a raw / in its"),
        ("postgresql://user:pa?hunter2@h/d", "a raw ? in its"),
        ("postgresql://user:pa#hunter2@h/d", "a raw # in its"),
        ("postgresql://user:hunter2#@h/d", "a raw # in its"),
        ("postgresql://user:[hunter2]@h/d", "a raw [ in its"),
        ("postgresql://user:hunter2%@h/d", "a raw % (write %25)"),
        ("postgresql://user:hunter2%4@h/d", "a raw % (write %25)"),
        ("postgresql://user:hunter2%zz@h/d", "a raw % (write %25)"),
        ("postgresql://user:hunter2%\u{e4}@h/d", "a raw % (write %25)"),
        ("postgresql://user:hunter 2@h/d", "a space, a line end or a control character"),
        ("postgresql://user:hunter2\n@h/d", "a space, a line end or a control character"),
        ("postgresql://us@er:hunter2@h/d", "a raw @ in its"),
        ("postgresql://h/d?user=u&password=hunter2@x", "percent-encode it, or use password_file"),
        ("postgresql://u@h/d?password=hunter2@x", "a raw @ in its"),
        ("postgresql://u@h/d?password=hunter2#x", "a raw # in its"),
        ("postgresql://user:hunter2", "no number from 1 to 65535 as the port"),
        ("postgresql://u@h:hunter2/d", "no number from 1 to 65535 as the port"),
        ("postgresql://u@h:0/d", "no number from 1 to 65535 as the port"),
        ("postgresql+asyncpg://user:pa@hunter2@h/d", "a raw @ in its"),
    ] {
        let problems = from_environment(&[("DATABASE_URL", url)]).unwrap_err();
        let report = format!("{problems} {problems:?}");
        assert!(report.contains(expected) && report.contains("database.url (DATABASE_URL)"), "{url}: {report}");
        assert!(!report.contains("hunter") && !report.contains("pa@"), "{url}: {report}");
        assert_eq!(problems.to_string().lines().count(), 2, "{url}: {report}");
    }
    for url in [
        "postgresql://user:p%40%3A%2F%3F%23%25@h:5432/d?application_name=a%40b",
        "postgresql://u:p@h1:1,h2:2/d",
        "postgresql://u:p@[::1]:5432/d",
        "postgresql://u:p-._~!$&'()*+,;=@h/d",
        "postgresql:///d?host=/run/postgresql&user=u",
        "postgresql://u@%2Frun%2Fpg/d",
    ] {
        from_environment(&[("DATABASE_URL", url)]).unwrap();
    }
}

#[test]
fn a_raw_character_in_the_file_of_a_url_is_refused_under_its_key() {
    let url = file("postgresql://user:pa@hunter2@h/d\n");
    let report = load(&format!("[database]\nurl_file = {:?}", url.path()), &[]).unwrap_err().to_string();
    assert!(report.contains("database.url_file (file ") && report.contains("a raw @"), "{report}");
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn line_ends_and_spaces_at_an_end_are_removed() {
    for url in
        ["postgresql://u:p@h/d\n", "postgresql://u:p@h/d\r\n", " postgresql://u:p@h/d ", "postgresql://u:p@h/d\n\n"]
    {
        assert_eq!(url_of(&[("DATABASE_URL", url)]), "postgresql://u:p@h/d");
        assert_eq!(url_of(&[("SERIES_INGEST__DATABASE__URL", url)]), "postgresql://u:p@h/d");
        let by_file = file(url);
        let by_file = load(&format!("[database]\nurl_file = {:?}", by_file.path()), &[]).unwrap();
        assert_eq!(by_file.database.url.expose(), "postgresql://u:p@h/d");
        let by_key = load(&format!("[database]\nurl = {}", Value::String(url.to_owned())), &[]).unwrap();
        assert_eq!(by_key.database.url.expose(), "postgresql://u:p@h/d");
    }
    assert_eq!(
        url_of(&[
            ("POSTGRES_USER", "u\n"),
            ("POSTGRES_PASSWORD", " p \r\n"),
            ("POSTGRES_DB", "d\n"),
            ("POSTGRES_HOST", " h\n"),
            ("POSTGRES_PORT", "5433\n"),
        ]),
        "postgresql://u:%20p%20@h:5433/d"
    );
    let config = from_environment(&[
        ("KAFKA_BROKERS", "a:1,b:2\n"),
        ("DATABASE_POOL_SIZE", "7\n"),
        ("SERIES_INGEST__BATCH__LINGER_MS", " 9\n"),
        ("SERIES_INGEST__JOURNAL__ENABLED", "false\n"),
        ("SERIES_INGEST__KAFKA__GROUP_ID", "g\n"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_PASSWORD", " p \n"),
    ])
    .unwrap();
    assert_eq!((config.kafka.brokers.as_str(), config.kafka.group_id.as_str()), ("a:1,b:2", "g"));
    assert_eq!((config.database.pool_size, config.batch.linger_ms, config.journal.enabled), (7, 9, false));
    assert_eq!(config.kafka.properties().collect::<Vec<_>>(), [("sasl.password", " p ")]);
    let token = file("secret\n\r\n");
    let text = format!("[kafka.properties_files]\nsasl.password = {:?}", token.path());
    assert_eq!(load(&text, &[]).unwrap().kafka.properties().collect::<Vec<_>>(), [("sasl.password", "secret")]);
    // A value that is only a line end is not set.
    assert_eq!(url_of(&[("DATABASE_URL", "\n"), ("POSTGRES_HOST", "h")]), "postgresql://h:5432/");
    assert_eq!(from_environment(&[("KAFKA_BROKERS", " \n")]).unwrap().kafka.brokers, "localhost:9092");
}

#[test]
fn a_variable_that_is_not_known_is_an_error_with_the_one_that_is_meant() {
    for (name, expected) in [
        ("SERIES_INGEST_BATCH_LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGEST_BATCH__LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGEST__BATCH_LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGEST__BATCH__LINGER_M", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGEST__BATCH__LINGERMS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGEST__KAFKA__LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGEST___BATCH___LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("series_INGEST__batch__linger_ms", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGEST__batch__linger_ms", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES-INGEST__BATCH__LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIESINGEST__BATCH__LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INGST__BATCH__LINGER_MS", "did you mean SERIES_INGEST__BATCH__LINGER_MS?"),
        ("SERIES_INJEST__PIPELINE", "did you mean SERIES_INGEST__PIPELINE?"),
        ("SERIES_INGEST_PIPELINE", "did you mean SERIES_INGEST__PIPELINE?"),
        ("SERIES_INGEST_DATABASE_URL", "did you mean SERIES_INGEST__DATABASE__URL?"),
        (
            "SERIES_INGEST_KAFKA_PROPERTIES_SASL_PASSWORD",
            "did you mean SERIES_INGEST__KAFKA__PROPERTIES__SASL_PASSWORD?",
        ),
        (
            "SERIES_INGEST__KAFKA_PROPERTIES_FILES__SASL_PASSWORD",
            "did you mean SERIES_INGEST__KAFKA__PROPERTIES_FILES__SASL_PASSWORD?",
        ),
        ("SERIES_INGEST_X", "is not a key of this program; remove it"),
        ("SERIES_INGEST", "is not a key of this program; remove it"),
    ] {
        assert_problems(from_environment(&[(name, "1")]), &[&format!("\n  {name}: is not a key of this program")]);
        let report = from_environment(&[(name, "1")]).unwrap_err().to_string();
        assert!(report.contains(expected), "{name}: {report}");
    }
    for (name, value) in [
        ("SERIES_INGEST_TESTS", "required"),
        ("SERIES_INGEST_PLANTED_BUGS", ""),
        ("SERIES_INGEST_TEST_PROFILE", "standard"),
        ("SERIES_INGEST_CACHE", "/x"),
        ("SERIES_INGEST_KAFKA_PORT", "39092"),
        ("SERIES_INGEST_SERVICE_HOST", "10.0.0.1"),
        ("SERIES_INGEST_SERVICE_PORT", "9464"),
        ("SERIES_INGEST_SERVICE_PORT_METRICS", "9464"),
        ("SERIES_INGEST_PORT", "tcp://10.0.0.1:9464"),
        ("SERIES_INGEST_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("SERIES_INGEST_PORT_9464_TCP_PROTO", "tcp"),
        ("SERIES_INGEST_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ("SERIES_INGEST_PORT_9464_TCP_PORT", "9464"),
        ("SERIES_INGEST_HTTP_SERVICE_HOST", "10.0.0.1"),
        ("SERIES_INGEST_HTTP_PORT", "tcp://10.0.0.1:9464"),
        ("SERIES_DATA__X", "1"),
        ("OTHER__BATCH__LINGER_MS", "1"),
    ] {
        from_environment(&[(name, value)]).unwrap();
    }
    from_environment(&[("SERIES_INGEST_HTTP_PORT", "9464")]).unwrap_err();
}

#[test]
fn a_key_or_a_value_that_is_not_known_comes_with_the_one_that_is_meant() {
    for (text, expected) in [
        ("[batch]\nlinger_m = 1", "batch.linger_m (file "),
        ("[batch]\nlinger_m = 1", "did you mean batch.linger_ms?"),
        ("[kafka]\nlinger_ms = 1", "did you mean batch.linger_ms?"),
        ("linger_ms = 1", "did you mean batch.linger_ms?"),
        ("[bacth]\nlinger_ms = 1", "did you mean batch?"),
        ("[batch]\nlinger-ms = 1", "did you mean batch.linger_ms?"),
        ("[kafka]\nstart = 'latets'", "did you mean latest?"),
        ("[kafka]\nstart = 'EARLIEST'", "did you mean earliest?"),
        ("[log]\nformat = 'jsn'", "did you mean json?"),
        ("[points]\nunknown_series = 'dead_letter'", "did you mean dead-letter?"),
        ("[database]\nsslmode = 'verify_full'", "did you mean verify-full?"),
        ("[database]\nmigrate_on_start = 'yes'", "is not a boolean; set true or false; did you mean true?"),
    ] {
        let report = load(text, &[]).unwrap_err().to_string();
        assert!(report.contains(expected), "{text}: {report}");
    }
    for (value, expected) in
        [("yes", "mean true?"), ("ON", "mean true?"), ("0", "mean false?"), ("maybe", "true or false\n")]
    {
        let report = from_environment(&[("SERIES_INGEST__JOURNAL__ENABLED", value)]).unwrap_err().to_string() + "\n";
        assert!(report.contains(expected), "{value}: {report}");
    }
    for (name, expected) in [
        ("sasl.passwort", Some("sasl.password")),
        ("sasl.user.name", Some("sasl.username")),
        ("security.protocoll", Some("security.protocol")),
        ("ssl.ca", None),
        ("nothing.like.it", None),
    ] {
        assert_eq!(similar_property(name), expected, "{name}");
    }
}

#[test]
fn what_of_the_environment_is_ignored_is_said() {
    let notes = |environment: &[(&str, &str)]| from_environment(environment).unwrap().notes();
    let url = ("DATABASE_URL", "postgresql://u:hunter2@h:5433/d");
    let agreeing = [
        ("POSTGRES_USER", "u"),
        ("POSTGRES_PASSWORD", "hunter2"),
        ("POSTGRES_HOST", "h"),
        ("POSTGRES_PORT", "5433"),
        ("POSTGRES_DB", "d"),
        url,
    ];
    assert_eq!(notes(&agreeing), [""; 0]);
    for (name, value) in [
        ("POSTGRES_USER", "other"),
        ("POSTGRES_PASSWORD", "hunter3"),
        ("POSTGRES_HOST", "other"),
        ("POSTGRES_PORT", "5432"),
        ("POSTGRES_DB", "other"),
    ] {
        let found = notes(&[url, (name, value)]);
        assert_eq!(found.len(), 1, "{name}");
        assert!(found[0].contains("database.url (DATABASE_URL)") && found[0].contains(name), "{found:?}");
        assert!(!found[0].contains("hunter"), "{found:?}");
    }
    assert_eq!(notes(&[("DATABASE_URL", "postgres://h/d"), ("POSTGRES_PORT", "5432")]), [""; 0]);
    let file = load("[database]\nurl = 'postgres://h/d'", &[("POSTGRES_PASSWORD", "hunter2")]).unwrap();
    assert!(file.notes()[0].contains("POSTGRES_PASSWORD"), "{:?}", file.notes());
    for (name, meant) in [
        ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"),
        ("KAFKA_BROKER", "KAFKA_BROKERS"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("database_url", "DATABASE_URL"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("POSTGRES_DATABASE", "POSTGRES_DB"),
        ("DATABASE_POOLSIZE", "DATABASE_POOL_SIZE"),
    ] {
        let found = notes(&[(name, "x:1")]);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(
            found[0].contains(&format!("{name} is set")) && found[0].contains(&format!("mean {meant}?")),
            "{found:?}"
        );
    }
    assert_eq!(notes(&[("KAFKA_BROKER", "x:1"), ("KAFKA_BROKERS", "y:1")]), [""; 0], "it is set, too");
    let report = from_environment(&[("DATABASE_URI", "x")]).unwrap().require_database().unwrap_err().to_string();
    assert!(report.contains("did you mean DATABASE_URL?"), "{report}");
}

#[test]
fn an_empty_url_names_the_variable_that_empties_it() {
    let environment = [("DATABASE_URL", "postgres://h"), ("SERIES_INGEST__DATABASE__URL", "")];
    let report = from_environment(&environment).unwrap().require_database().unwrap_err().to_string();
    assert!(report.contains("database.url (SERIES_INGEST__DATABASE__URL): is empty; set DATABASE_URL"), "{report}");
}

#[test]
fn a_list_of_brokers_that_librdkafka_would_read_differently_is_a_problem() {
    for brokers in ["a:1,", "kafka://a:1", "a", "a:1 b:2", "a:x"] {
        assert_problems(from_environment(&[("KAFKA_BROKERS", brokers)]), &["\n  kafka.brokers (KAFKA_BROKERS): has "]);
    }
}

#[test]
fn a_host_with_a_port_is_a_problem_of_the_variable_that_sets_it() {
    for host in ["db:5433", "postgres://db", "db/x", "u@db"] {
        assert_problems(
            from_environment(&[("POSTGRES_HOST", host)]),
            &["\n  POSTGRES_HOST: is not a host; set a name"],
        );
    }
    for host in ["db", "::1", "10.0.0.1", "/run/pg"] {
        from_environment(&[("POSTGRES_HOST", host)]).unwrap();
    }
}

#[test]
fn problems_know_the_form_of_the_log() {
    let format = |text: &str, environment: &[(&str, &str)]| load(text, environment).unwrap_err().log_format();
    assert_eq!(format("[log]\nformat = 'json'\n[batch]\nlinger_ms = -1", &[]), LogFormat::Json);
    assert_eq!(format("[batch]\nlinger_ms = -1", &[("SERIES_INGEST__LOG__FORMAT", "json")]), LogFormat::Json);
    assert_eq!(format("[log]\nformat = 'jsn'", &[]), LogFormat::Human);
    let unset = from_environment(&[("SERIES_INGEST__LOG__FORMAT", "json")]).unwrap().require_database().unwrap_err();
    assert_eq!(unset.log_format(), LogFormat::Json);
}

#[test]
fn urls_are_masked() {
    for (url, expected) in [
        ("", ""),
        ("nonsense", "***"),
        ("postgres://h:5432/d", "postgres://h:5432/d"),
        ("postgres://u@h/d", "postgres://u@h/d"),
        ("postgres://u:p@h:1/d?a=b", "postgres://u:***@h:1/d?a=b"),
        ("postgres://u:p/@?@h/d", "postgres://u:***@h/d"),
        ("postgres://h/d?a=b&Password=p&c=d", "postgres://h/d?a=b&Password=***"),
        ("postgres://u@h:1/d?password=p@q", "postgres://u@h***"),
    ] {
        assert_eq!(mask_url(url), expected);
    }
}

proptest! {
    #[test]
    fn a_password_never_appears(raw in "[a-z@:/?#&=%;\\\\\" \n\u{e4}]{0,12}", user in "[a-z]{0,3}") {
        // Longer than the random part of a temporary file's name, which is shown.
        const MARK: &str = "QXQXQXQXQ";
        let password = format!("{MARK}{raw}{MARK}");
        let hidden = |text: &str| !text.contains(MARK);
        for url in [
            format!("postgresql://{user}:{password}@host:5432/db?a=b"),
            format!("postgresql://{user}@host:5432/db?a=b&password={password}"),
            format!("postgresql://{user}:{password}@host/db?password={password}"),
            url::with_password("postgresql://host/db", &password),
        ] {
            prop_assert!(hidden(&mask_url(&url)), "{}", mask_url(&url));
            let file = file(&password);
            let environment = [
                ("DATABASE_URL", url.as_str()),
                ("SERIES_INGEST__KAFKA__PROPERTIES__SSL_KEY_PEM", &password),
                ("SERIES_INGEST__KAFKA__PROPERTIES__SOMETHING_NEW", &password),
                ("SERIES_INGEST__KAFKA__PROPERTIES_FILES__SASL_PASSWORD", file.path().to_str().unwrap()),
            ];
            let config = match from_environment(&environment) {
                Ok(config) => config,
                // An unencoded character is refused, without the password in the message.
                Err(problems) => {
                    let report = format!("{problems} {problems:?}");
                    prop_assert!(hidden(&report) && report.contains("percent-encode it"), "{}", report);
                    continue;
                }
            };
            prop_assert!(config.kafka.properties().any(|(name, value)| name == "sasl.password" && value.contains(raw.trim())));
            prop_assert!(hidden(&config.render()), "{}", config.render());
            let debug = format!("{config:?} {config:#?} {}", config.database.url);
            prop_assert!(hidden(&debug), "{}", debug);
        }
        let report = from_environment(&[("DATABASE_URL", &format!("mysql://u:{password}@h"))]).unwrap_err();
        let report = format!("{report} {report:?}");
        prop_assert!(hidden(&report), "{}", report);
    }

    #[test]
    fn a_file_of_any_text_is_read_or_reported(text in "\\PC{0,60}|(\\[?[a-z._]{1,9}\\]?( = ('a'|1|\\{a=1\\}))?\n){0,6}") {
        if let Err(problems) = load(&text, &[]) {
            prop_assert!(problems.to_string().contains("\n  "));
        }
    }
}

#[test]
fn only_the_database_of_the_url_changes() {
    for (url, expected) in [
        ("postgresql://u:p@h:1/a?sslmode=disable", "postgresql://u:p@h:1/x?sslmode=disable"),
        ("postgresql://h", "postgresql://h/x"),
        ("postgresql://h/", "postgresql://h/x"),
    ] {
        assert_eq!(url::with_database(url, "x").unwrap(), expected);
    }
}

#[test]
fn only_the_server_of_the_url_changes() {
    for (url, expected) in [
        ("postgresql://u:p@h:1/a?sslmode=disable", "postgresql://u:p@s:2/a?sslmode=disable"),
        ("postgresql://h1:1,h2:2/a", "postgresql://s:2/a"),
        ("postgresql://u@/a?host=/run&port=1&user=v", "postgresql://u@s:2/a?user=v"),
        ("postgresql:///a?host=/run", "postgresql://s:2/a"),
    ] {
        assert_eq!(url::with_server(url, "s:2").unwrap(), expected);
    }
}

#[test]
fn the_url_for_reading_is_checked_and_masked_as_the_other() {
    let password = file("from-file\n");
    let settings = format!("[database]\nurl = 'postgres://w@h'\npassword_file = {:?}\n", password.path());
    let reading = |text: &str| load(&format!("{settings}{text}"), &[]).unwrap().database.for_reading();
    assert!(reading("").is_none());
    let plain = reading("read_url = 'postgresql+asyncpg://r@a,b/d'").unwrap();
    assert_eq!(plain.connection().expose(), "postgresql://r@a,b/d?password=from-file");
    assert_eq!(plain.url_key(), "database.read_url");
    assert_eq!(plain.with_secrets_read_again().unwrap().connection().expose(), plain.connection().expose());
    let own = reading("read_url = 'postgresql://r:own@a/d'").unwrap().with_secrets_read_again().unwrap();
    assert_eq!(own.connection().expose(), "postgresql://r:own@a/d", "the other password is not for it");
    let url = file("postgresql://r:own@a/d\n");
    let by_file = reading(&format!("read_url_file = {:?}", url.path())).unwrap();
    assert_eq!(by_file.connection().expose(), "postgresql://r:own@a/d");
    let masked = load("[database]\nread_url = 'postgresql://r:hunter2@a/d'", &[]).unwrap();
    assert!(masked.render().contains("postgresql://r:***@a/d") && !masked.render().contains("hunter2"));
    assert!(!masked.json().to_string().contains("hunter2"));
    for (text, expected) in [
        ("read_url = 'mysql://h'", "is not a URL of PostgreSQL"),
        ("read_url = 'postgres://u:p@x@h'", "has a raw @"),
        ("read_url = 'postgres://h?sslmode=allow'", "allow, in plaintext wherever the server lets us, is not offered"),
        ("read_fallback = true", "has no effect without database.read_url"),
        ("read_max_lag_s = 1", "has no effect without database.read_url"),
    ] {
        let report = load(&format!("[database]\n{text}"), &[]).unwrap_err().to_string();
        let key = text.split(' ').next().unwrap();
        let names_key = text.contains("sslmode") || report.contains(&format!("database.{key} "));
        assert!(report.contains(expected) && names_key && report.lines().count() == 2, "{text}: {report}");
    }
}
