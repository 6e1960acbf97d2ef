//! A fault of mote's own, a panic, as a failure like any other: a sentence, an exit code, and
//! nothing half made.
//!
//! A panic unwinds, so that files that are being written are taken away as after any error, and the
//! pool of threads hands a task's panic to its caller. Here it ends: what it said is kept instead
//! of printed, and becomes a failure that asks for a report. A panic while unwinding, or a stack
//! that is used up, still aborts.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};

use mote_host::error::{Failure, Result};

/// The longest message of a panic that is shown: more would bury the sentence around it.
const MAX_SAID: usize = 300;

/// Carries out `work`; a panic in it, on this thread or handed on from another, is a failure.
///
/// While it lasts, panics of the whole process print nothing: what the first one says is told by
/// the failure.
///
/// # Errors
/// Those of `work`, and [`Failure::fault`] where it panics.
pub fn guarded(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let first = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&first);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        kept.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| said(info));
    }));
    // What `work` holds is dropped on the way here, and nobody looks at it again.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(before);
    result.unwrap_or_else(|_| {
        let said = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(Failure::fault(&said.unwrap_or_else(|| "it does not say where".into())))
    })
}

/// A panic's message and place in one line: `index out of bounds (core/src/ops/gemm.rs:12:3)`.
fn said(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("no message");
    let mut said: String = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = said.char_indices().nth(MAX_SAID) {
        said.truncate(end);
        said.push('…');
    }
    match info.location() {
        Some(place) => format!("{said} ({}:{}:{})", place.file(), place.line(), place.column()),
        None => said,
    }
}
