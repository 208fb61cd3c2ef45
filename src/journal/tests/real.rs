//! The real file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::{Log, Plain, Sets};
use crate::journal::{AppendError, Inspection, Journal, OpenError, Options, RealFiles};

fn options(directory: &Path) -> Options {
    Options { directory: directory.to_owned(), segment_bytes: 1 << 16, max_bytes: 1 << 30, min_free_bytes: 0 }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn it_appends_rolls_reopens_and_removes() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("missing/journal");
    let mut journal = Journal::open(RealFiles, options(&directory)).unwrap();
    let (mut sets, mut log) = (Sets::new(1), Log::default());
    sets.payload = 10_000;
    while journal.segments().len() < 4 {
        assert!(log.append(&mut journal, &sets.some()));
    }
    log.check(&mut journal).unwrap();
    let current = directory.join("00000000000000000004.segment");
    assert_eq!(fs::metadata(&current).unwrap().len(), 1 << 16, "allocated ahead");
    drop(journal);
    let mut journal = Journal::open(RealFiles, options(&directory)).unwrap();
    log.check(&mut journal).unwrap();
    assert_eq!((journal.damage(), journal.torn_tails()), ([].as_slice(), 0));
    assert!(fs::metadata(&current).unwrap().len() < 1 << 16, "the unused space is given back");
    for segment in journal.segments() {
        journal.remove_segment(segment.number).unwrap();
    }
    assert_eq!((journal.usage().bytes, journal.records().count()), (0, 0));
}

#[test]
fn only_this_user_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("a/journal");
    let mut journal = Journal::open(RealFiles, options(&directory)).unwrap();
    journal.append(&[Sets::new(1).one()]).unwrap();
    assert_eq!((mode(&folder.path().join("a")), mode(&directory)), (0o700, 0o700));
    for entry in fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn a_second_process_is_refused_and_may_look() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(RealFiles, options(folder.path())).unwrap();
    let (mut sets, mut log) = (Sets::new(1), Log::default());
    assert!(log.append(&mut journal, &sets.some()));
    let error = Journal::open(RealFiles, options(folder.path())).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert_eq!(error.to_string(), format!("the journal {} is used by another process", folder.path().display()));

    let mut inspection = Inspection::open(RealFiles, folder.path()).unwrap();
    let records: Vec<_> = inspection.records().cloned().collect();
    assert_eq!(records.len(), log.acknowledged.len());
    for record in &records {
        inspection.read(record).unwrap();
    }
    let mut bytes = 0;
    assert_eq!(inspection.verify(|read| bytes += read), []);
    assert_eq!(bytes, inspection.bytes());
    assert!(log.append(&mut journal, &sets.some()), "and the worker goes on");
    drop(journal);
    Journal::open(RealFiles, options(folder.path())).unwrap();
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for open in [0o702, 0o1777, 0o2777] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(open)).unwrap();
        let error = Journal::open(RealFiles, options(folder.path())).unwrap_err();
        assert!(matches!(error, OpenError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(&format!("every user may write to it (mode {open:o})")), "{error}");
    }
    // What Kubernetes makes of a volume with fsGroup: its group is one of this process's.
    for ours in [0o755, 0o770, 0o2770] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(ours)).unwrap();
        Journal::open(RealFiles, options(folder.path())).unwrap();
    }
    // Only root can give a directory to a group of others.
    if std::os::unix::fs::chown(folder.path(), None, Some(54321)).is_ok() {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o2770)).unwrap();
        let error = Journal::open(RealFiles, options(folder.path())).unwrap_err().to_string();
        assert!(error.contains("its group 54321 may write to it (mode 2770), and this process is not in"), "{error}");
    }
}

#[test]
fn links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["LOCK", "JOURNAL", "JOURNAL.new", "00000000000000000001.segment"] {
        let directory = folder.path().join(format!("journal-{name}"));
        fs::create_dir(&directory).unwrap();
        symlink(&victim, directory.join(name)).unwrap();
        let result = Journal::open(RealFiles, options(&directory));
        match name {
            // Removed before the new one is created.
            "JOURNAL.new" => drop(result.unwrap()),
            _ => assert!(matches!(result, Err(OpenError::Io { .. })), "{name}: {result:?}"),
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{name}");
    }
}

#[test]
fn a_directory_that_is_taken_away_is_made_again_if_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("journal");
    let mut journal = Journal::open(RealFiles, options(&directory)).unwrap();
    let (mut sets, mut log) = (Sets::new(1), Log::default());
    journal.append(&[sets.one()]).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert!(log.append(&mut journal, &[sets.one()]), "it is made again");
    assert_eq!(journal.take_lost().len(), 1);
    fs::rename(&directory, folder.path().join("elsewhere")).unwrap();
    fs::write(&directory, "not a directory").unwrap();
    let one = [sets.one()];
    log.attempted.extend(Plain::all(&one));
    let error = journal.append(&one).unwrap_err();
    assert!(matches!(error, AppendError::Lost { .. }), "{error}");
    assert_eq!(journal.take_lost().len(), 1);
    assert_eq!((journal.records().count(), journal.usage().records), (0, 0), "who reads it is not told of them");
    // It is put back.
    fs::remove_file(&directory).unwrap();
    fs::rename(folder.path().join("elsewhere"), &directory).unwrap();
    journal.probe().unwrap();
    log.check(&mut journal).unwrap();
    assert!(log.append(&mut journal, &[sets.one()]));
    drop(journal);
    log.check(&mut Journal::open(RealFiles, options(&directory)).unwrap()).unwrap();
}
