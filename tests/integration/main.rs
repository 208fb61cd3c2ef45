//! Tests against a real broker and a real database, one file a subject. `make test` brings the servers up and runs them.
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "nobody uses a test's items from outside"
)]

mod advise;
mod analyzer;
mod archive;
mod arrival;
mod backup;
mod backup_documents;
mod bombs;
mod changed_tables;
mod checks;
mod chunks;
mod claims;
mod clusters;
mod commands;
mod compaction;
mod corpus;
mod crashes;
mod damage;
mod dead_letters;
mod definitions;
mod deletion_results;
mod deletions;
mod disk_faults;
mod dumps;
mod duplicates;
mod export;
mod export_limits;
mod guards;
mod identity;
mod import;
mod import_files;
mod inputs;
mod inputs_topics;
mod journal_commands;
mod journal_place;
mod labels;
mod last_resort;
mod limits;
mod locks;
mod log_lines;
mod logging;
mod lost_commits;
mod membership;
mod memory;
mod moves;
mod outages;
mod output;
mod pitr;
mod pool;
mod poolers;
mod profiles;
mod python;
mod readiness;
mod reading;
mod references;
mod refusals;
mod rejecting;
mod replicas;
mod restores;
mod retention;
mod rotation;
mod schema;
mod search_path;
mod security;
mod series;
mod server_faults;
mod signals;
mod support;
mod topics;
