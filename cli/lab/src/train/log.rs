//! The curve of a training: a line for each step in a table with tabs.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::fit::Done;
use mote_host::error::{Failure, Result};
use mote_host::files;
use mote_host::stop::Stop;
use mote_host::write::FileWriter;

/// The names of the columns.
const HEADER: &str = "step\tloss\tlearning_rate\tgradient_norm\n";

/// The longest curve that is read: a hundred million steps.
const MAX_BYTES: u64 = 4 << 30;

/// The table, open at its end.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the table, which holds the steps up to `done` and no more: those after the state that
    /// is gone on with will be done again.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn open(path: &Path, done: u64, stop: &Stop) -> Result<Self> {
        let old = match path.exists() && done > 0 {
            true => String::from_utf8_lossy(&files::read(path, MAX_BYTES)?).into_owned(),
            false => String::new(),
        };
        let is_done = |line: &&str| {
            let step = line.split('\t').next().and_then(|step| step.parse::<u64>().ok());
            line.ends_with('\n') && step.is_some_and(|step| step <= done)
        };
        let mut writer = FileWriter::begin(Some(path), stop)?;
        writer.write(HEADER.as_bytes())?;
        let kept = old.split_inclusive('\n').filter(is_done);
        kept.map(str::as_bytes).try_for_each(|line| writer.write(line))?;
        writer.end()?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|error| Failure::file("write", path, &error))?;
        Ok(Self { path: path.into(), file })
    }

    /// Writes a step down.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn add(&mut self, step: u64, told: Done) -> Result<()> {
        let Done { loss, learning_rate, gradient_norm } = told;
        let line = format!("{step}\t{loss:.6}\t{learning_rate:.4e}\t{gradient_norm:.5}\n");
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|error| Failure::file("write", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn steps_after_the_state_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.tsv");
        let told = Done { loss: 0.5, learning_rate: 1e-4, gradient_norm: 2.0 };
        let none = Stop::default();
        let mut log = Log::open(&path, 0, &none).unwrap();
        (1..=5).for_each(|step| log.add(step, told).unwrap());
        log.file.write_all(b"6\t0.").unwrap();
        drop(log);
        Log::open(&path, 3, &none).unwrap().add(4, told).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<_> = text.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(steps, ["step", "1", "2", "3", "4"]);
        assert!(text.ends_with("4\t0.500000\t1.0000e-4\t2.00000\n"), "{text}");
        drop(Log::open(&path, 0, &none).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), HEADER);
    }
}
