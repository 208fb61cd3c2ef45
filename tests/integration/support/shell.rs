//! The command lines of a document, in a folder with the program and PostgreSQL's own in its path.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use super::worker::PROGRAM;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A folder, and an environment.
pub struct Shell {
    pub folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Shell {
    pub fn new(mut environment: Vec<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("programs");
        fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(PROGRAM, programs.join("series-ingest")).unwrap();
        let psql = programs.join("psql");
        fs::write(&psql, format!("#!/bin/sh\nexec '{ROOT}/scripts/stack' postgres psql -v ON_ERROR_STOP=1 \"$@\"\n"))
            .unwrap();
        fs::set_permissions(&psql, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        environment.push(("PATH".to_owned(), path));
        Self { folder, environment }
    }

    /// Runs a script that ends at its first failure.
    pub fn run(&self, code: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", code]).current_dir(self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).output().unwrap()
    }
}

/// The examples of a document in this language, in their order.
pub fn examples(document: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.filter(|(kind, _)| *kind == language).map(|(_, code)| code.to_owned()).collect()
}
