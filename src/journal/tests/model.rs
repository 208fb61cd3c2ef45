//! Random sequences of calls against a plain list.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fault_files::FaultFiles;
use super::{Log, Plain, Sets, delivered, open, seed};

fn run(seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sets = Sets::new(rng.random());
    let mut files = FaultFiles::new(rng.random());
    let mut journal = open(&files);
    let mut log = Log::default();
    // What must be delivered, in this order.
    let mut model: Vec<Plain> = Vec::new();
    for step in 0..60 {
        match rng.random_range(0..20) {
            0..11 => {
                sets.payload = if rng.random_bool(0.05) { 5000 } else { 300 };
                let some = sets.some();
                assert!(log.append(&mut journal, &some));
                model.extend(Plain::all(&some));
            }
            // Ends the segment: the next append begins another.
            11..13 => journal.seal(),
            13..15 => {
                let segments = journal.segments();
                let oldest = if rng.random_bool(0.7) { 1 } else { segments.len() };
                if !segments.is_empty() {
                    let number = segments[rng.random_range(0..oldest)].number;
                    let gone = log.release(&journal, number);
                    journal.remove_segment(number).map_err(|error| error.to_string())?;
                    model.retain(|set| !gone.iter().any(|record| set.is(record)));
                }
            }
            15..18 => {
                drop(journal);
                files.restart();
                journal = open(&files);
                if !journal.damage().is_empty() {
                    return Err(format!("step {step}: damage {:?}", journal.damage()));
                }
                // Removed records whose file had to wait may be there again.
                model = delivered(&mut journal);
            }
            _ => {
                drop(journal);
                files = files.after_crash(rng.random());
                journal = open(&files);
                model = delivered(&mut journal);
            }
        }
        log.check(&mut journal).map_err(|error| format!("step {step}: {error}"))?;
        if delivered(&mut journal) != model {
            return Err(format!("step {step}: another order, or removed records are there"));
        }
        let usage = journal.usage();
        assert_eq!(usage.records, model.len() as u64);
        assert_eq!(usage.oldest_ms, model.iter().flat_map(|set| &set.messages).filter_map(|m| m.1).min());
        assert!(usage.bytes >= journal.records().map(|record| record.bytes()).sum());
    }
    Ok(())
}

#[test]
fn random_calls_do_what_a_plain_list_does() {
    let seed = seed();
    for round in 0..150 {
        run(seed.wrapping_add(round)).unwrap_or_else(|error| panic!("SEED={}: {error}", seed.wrapping_add(round)));
    }
}
