//! `advise`: what could be better in the database, with the figures, the statement that shows them, and the change.

use clap::Args;
use serde_json::{Value, json};

use super::output::print_line;
use super::{Failure, progress_bar};
use crate::config::Config;
use crate::repository::advise::{Finding, advise};
use crate::telemetry::escaped;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest advise\n  \
    series-ingest advise --json | jq -r '.findings[].change'\n\n\
    It changes nothing, and ends with exit code 0 with or without findings. The statistics are those of the server of\n\
    database.url since they were last reset; what this role may not see is listed as not examined.")]
pub(super) struct Arguments {
    /// As one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failure> {
    config.require_database()?;
    let bar = progress_bar(0, "rules");
    let progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let advice = advise(&config.database, &progress).await;
    bar.finish_and_clear();
    let advice = advice?;
    if arguments.json {
        let findings: Vec<Value> = advice.findings.iter().map(document).collect();
        let unseen: Vec<Value> = advice.unseen.iter().map(|one| json!({"rule": one.rule, "why": one.why})).collect();
        print_line(json!({"examined": advice.examined, "findings": findings, "not_examined": unseen}));
        return Ok(());
    }
    for (number, finding) in advice.findings.iter().enumerate() {
        print_finding(number + 1, finding);
    }
    if advice.findings.is_empty() {
        print_line(format_args!("{}: {} rules, nothing to say", advice.place, advice.examined));
    } else {
        print_line(format_args!("{}: {} rules, {} findings", advice.place, advice.examined, advice.findings.len()));
    }
    for unseen in &advice.unseen {
        print_line(format_args!("not examined: {}: {}", unseen.rule, escaped(&unseen.why)));
    }
    Ok(())
}

fn document(finding: &Finding) -> Value {
    let Finding { rule, what, figures, sql, change } = finding;
    json!({"rule": rule, "what": what, "figures": figures, "sql": sql, "change": change})
}

fn print_finding(number: usize, finding: &Finding) {
    let Finding { rule, what, figures, sql, change } = finding;
    let figures: Vec<String> = figures.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    print_line(format_args!("{number}. {rule}: {}", escaped(what)));
    print_line(format_args!("   figures: {}", escaped(&figures.join(", "))));
    print_line(format_args!("   change: {}", escaped(change)));
    print_line("   shown by:");
    for line in sql.lines() {
        print_line(format_args!("     {line}"));
    }
    print_line("     ;\n");
}
