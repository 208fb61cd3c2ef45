//! The settings that change the meaning of a statement, pinned at the start of every session: a role or a database may have
//! other defaults, by ALTER ROLE and ALTER DATABASE, at any time. `default_transaction_read_only` is respected: it keeps
//! writers out on purpose.

use crate::config;

/// Settings that any role may set.
///
/// - `row_security = off` makes a statement fail whose rows a policy would hide, instead of hiding them.
/// - `exit_on_error` would end the session at the first refused row.
/// - `plpgsql.extra_errors` would refuse functions of the migrations.
/// - `statement_timeout` comes first, because it counts for each of these statements.
///
/// All of it is ASCII: the database may have any encoding.
const PINNED: &str = "set statement_timeout = 0; set timezone = 'UTC'; set datestyle = 'ISO, MDY'; set intervalstyle = 'postgres'; \
    set bytea_output = 'hex'; set extra_float_digits = 1; set array_nulls = on; set standard_conforming_strings = on; \
    set quote_all_identifiers = off; set transform_null_equals = off; set row_security = off; set exit_on_error = off; \
    set default_transaction_isolation = 'read committed'; set client_min_messages = warning; \
    set plpgsql.extra_errors = 'none'; set plpgsql.extra_warnings = 'none';";

/// Settings that depend on their present value or on the role's privileges, and conditions under which no session can work:
/// SQLSTATE IC010 is for what an administrator must change, IC011 for a restore, which ends.
///
/// - A stronger `synchronous_commit`, `remote_apply`, stays.
/// - The row at which a COPY ends is read from the server's message, which is translated: `lc_messages`.
/// - TimescaleDB does not verify that data is sorted with `…_client_sorted`, finds no duplicate in compressed rows without
///   `enable_dml_decompression`, and returns no compressed rows without `enable_transparent_decompression`.
const PREPARE: &str = r"
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception using errcode = 'IC010', message = format(
            'the database %I has the encoding %s, and messages are UTF-8: create another one with  create database NAME '
            'encoding ''UTF8'' template template0  and name it in database.url',
            current_database(), current_setting('server_encoding'));
    end if;
    if current_setting('session_replication_role') <> 'origin' then
        begin
            perform set_config('session_replication_role', 'origin', false);
        exception when insufficient_privilege then
            if current_setting('session_replication_role') = 'replica' then
                raise exception using errcode = 'IC010', message = format(
                    'session_replication_role is replica for the role %I in the database %I, so that foreign keys and '
                    'triggers are skipped, and the role may not set it: reset it with  alter database NAME reset '
                    'session_replication_role  or  alter role NAME reset session_replication_role',
                    current_user, current_database());
            end if;
        end;
    end if;
    if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
        perform set_config('synchronous_commit', 'on', false);
    end if;
    if current_setting('lc_messages') !~ '^(C|POSIX|en|$)' then
        begin
            perform set_config('lc_messages', 'C', false);
        exception when insufficient_privilege then
            null;
        end;
    end if;
    perform set_config(name, value, false)
    from (values
        ('timescaledb.enable_direct_compress_copy_client_sorted', 'off'),
        ('timescaledb.enable_direct_compress_insert_client_sorted', 'off'),
        ('timescaledb.disable_load', 'off'),
        ('timescaledb.enable_dml_decompression', 'on'),
        ('timescaledb.enable_transparent_decompression', 'on')
    ) as pinned (name, value)
    where current_setting(name, true) <> value;
end";

/// Refuses to work during a restore. The setting of the database is checked alongside the session's own: a session that was
/// opened before the restore began, by this program or by a pooler, does not have it.
const REFUSE_RESTORE: &str = "
begin
    if lower(current_setting('timescaledb.restoring', true)) in ('on', 'true', 'yes', '1')
        or exists (
            select from pg_catalog.pg_db_role_setting as setting, unnest(setting.setconfig) as entry
            where setting.setdatabase = (select oid from pg_catalog.pg_database where datname = current_database())
                and setting.setrole = 0
                and lower(entry) in ('timescaledb.restoring=on', 'timescaledb.restoring=true',
                                     'timescaledb.restoring=yes', 'timescaledb.restoring=1'))
    then
        raise exception using errcode = 'IC011', message = format(
            'a restore of the database %I is in progress: timescaledb.restoring is on, and TimescaleDB takes no points. When '
            'the restore is complete, run  select timescaledb_post_restore()', current_database());
    end if;
end";

/// The statements that every session starts with.
pub(in crate::database) fn pinned(database: &config::Database) -> String {
    // A temporary table of the same name, which a trigger or an event trigger may make, must not take precedence.
    let path = quoted_name(&database.schema);
    format!("set search_path = {path}, pg_temp; {PINNED} do $prepare${PREPARE}$prepare$; {};", still_fit())
}

/// The statement that tests a session of the pool before each use: it fails if the connection is lost, or if nothing can be
/// written now.
pub(in crate::database) fn still_fit() -> String {
    format!("do $restore${REFUSE_RESTORE}$restore$")
}

/// A name as an identifier in SQL.
pub(crate) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::quoted_name;

    #[test]
    fn names_are_quoted() {
        for (name, quoted) in [("public", "\"public\""), ("My Series", "\"My Series\""), ("a\"b.c", "\"a\"\"b.c\"")] {
            assert_eq!(quoted_name(name), quoted);
        }
    }
}
