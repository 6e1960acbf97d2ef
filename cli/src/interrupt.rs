//! Ctrl-C, which ends the work between two steps.

use mote_host::error::INTERRUPTED;
use mote_host::{Failure, Result, Stop};

use crate::terminal::tell;

/// The bit of signal 1, `SIGHUP`.
const HANGUP: u64 = 1;

/// Listens for Ctrl-C, and for the system's wish to end the program, from here on. The first ends
/// the work at the next step; a second ends the program at once.
///
/// A program that is to outlive its terminal (`nohup`) does not listen: to listen would be to hear
/// the terminal go, and nobody is there to press Ctrl-C.
///
/// # Errors
/// Where the system will not let a program listen.
pub fn listen() -> Result<Stop> {
    let stop = Stop::default();
    if outlives_its_terminal() {
        return Ok(stop);
    }
    let asked = stop.clone();
    ctrlc::set_handler(move || press(&asked))
        .map_err(|error| Failure::new(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(stop)
}

fn press(stop: &Stop) {
    if !stop.ask() {
        tell("\nstopping after this step; press Ctrl-C again to stop at once");
        return;
    }
    if let Some(path) = stop.take_unfinished() {
        // The program ends here: there is nobody left to tell.
        let _ = std::fs::remove_file(path);
    }
    std::process::exit(i32::from(INTERRUPTED));
}

/// Whether the signal that tells of a lost terminal is ignored, as `nohup` arranges it. Linux alone
/// tells.
fn outlives_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & HANGUP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressing_once_sets_the_flag_and_leaves_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stop = Stop::default();
        stop.set_unfinished(Some(file.path()));
        assert!(!stop.is_asked());
        press(&stop);
        assert!(stop.is_asked() && file.path().exists());
    }
}
