//! A crash at every call of a workload, and again inside the recovery.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fault_files::FaultFiles;
use super::{Log, Sets, open, options, seed};
use crate::journal::{Journal, Record};

/// Number of subsets of the changes that were not durable, tried for each call.
const SAMPLES: u64 = 6;

/// Appends, rolls, removals and reopenings, until the process dies.
fn workload(files: &FaultFiles, seed: u64) -> Log {
    let mut log = Log::default();
    run(files, seed, &mut log);
    log
}

fn run(files: &FaultFiles, seed: u64, log: &mut Log) -> Option<()> {
    let mut sets = Sets::new(seed);
    let mut journal = Journal::open(files.clone(), options()).ok()?;
    for step in 0..14 {
        if !log.append(&mut journal, &sets.some()) {
            return None;
        }
        if step == 6 || step == 11 {
            let oldest = journal.segments().first()?.number;
            log.release(&journal, oldest);
            journal.remove_segment(oldest).ok()?;
        }
        if step == 8 {
            drop(journal);
            journal = Journal::open(files.clone(), options()).ok()?;
        }
    }
    Some(())
}

/// Recovers from one crash, with another one inside, and checks.
fn recover(files: &FaultFiles, log: &mut Log, rng: &mut StdRng) -> Result<usize, String> {
    let again = files.after_crash(rng.random());
    again.crash_in(rng.random_range(1..60));
    let mut sets = Sets::new(rng.random());
    sets.next = 1_000_000;
    if let Ok(mut journal) = Journal::open(again.clone(), options()) {
        log.append(&mut journal, &sets.some());
    }

    let files = again.after_crash(rng.random());
    let mut journal = open(&files);
    log.check(&mut journal)?;
    // A group in which some records are whole and others are not is reported as damage; it never is what was acknowledged.
    for damage in journal.damage() {
        let behind = |record: &&Record| record.segment == damage.segment && record.position >= damage.from;
        if journal.records().filter(behind).any(|record| log.acknowledged.iter().any(|set| set.is(record))) {
            return Err(format!("damage in what was acknowledged: {damage:?}"));
        }
    }
    let first = (super::delivered(&mut journal), journal.damage().to_vec());
    drop(journal);
    let mut journal = open(&files);
    if (super::delivered(&mut journal), journal.damage().to_vec()) != first {
        return Err("opening twice gives two results".to_owned());
    }
    if !log.append(&mut journal, &sets.some()) {
        return Err("a recovered journal does not append".to_owned());
    }
    log.check(&mut journal)?;
    drop(journal);
    // What was found is durable: another power failure loses none of it.
    let files = files.after_crash(rng.random());
    let mut journal = open(&files);
    log.acknowledged.extend(first.0);
    log.check(&mut journal)?;
    Ok(first.1.len())
}

/// The checker, for a workload from a seed: at each `step`-th call.
pub(super) fn crash_everywhere(seed: u64, samples: u64, files: impl Fn(u64) -> FaultFiles) -> Result<String, String> {
    let whole = files(seed);
    workload(&whole, seed);
    let (mut runs, mut damaged) = (0, 0);
    for call in 1..=whole.calls() {
        for sample in 0..samples {
            let mut rng = StdRng::seed_from_u64(seed ^ (call << 32) ^ sample);
            let files = files(rng.random());
            files.crash_in(call);
            let mut log = workload(&files, seed);
            let found =
                recover(&files, &mut log, &mut rng).map_err(|e| format!("call {call}, sample {sample}: {e}"))?;
            runs += 1;
            damaged += usize::from(found > 0);
        }
    }
    Ok(format!("{} calls, {runs} crashes, {damaged} with a torn group reported as damage", whole.calls()))
}

#[test]
fn a_crash_at_every_call_and_again_in_the_recovery_loses_and_invents_nothing() {
    let seed = seed();
    for round in 0..3 {
        println!("{}", crash_everywhere(seed.wrapping_add(round), SAMPLES, FaultFiles::new).unwrap());
    }
}

#[test]
fn the_same_where_space_cannot_be_allocated_ahead() {
    let files = |seed| FaultFiles::new(seed).without_allocate();
    println!("{}", crash_everywhere(seed(), SAMPLES, files).unwrap());
}
