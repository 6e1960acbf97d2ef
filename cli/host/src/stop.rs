//! The wish to end a piece of work between two of its steps, which anybody may have: Ctrl-C, a
//! button, a server that shuts down.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether the work is to end, shared by who asks and who works; and the file that is to be taken
/// away by a program that ends at once.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicBool,
    unfinished: Mutex<Option<PathBuf>>,
}

impl Stop {
    /// Asks for an end after the step that is underway; tells whether somebody had asked before.
    pub fn ask(&self) -> bool {
        self.0.asked.swap(true, Ordering::SeqCst)
    }

    /// Whether somebody has asked for an end.
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// What the core is to do after a step.
    pub fn flow(&self) -> ControlFlow<()> {
        match self.is_asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Remembers a file that must not outlive the program half written, or that there is none.
    pub fn set_unfinished(&self, path: Option<&Path>) {
        *self.unfinished() = path.map(Path::to_path_buf);
    }

    /// The file that was remembered, which is then forgotten.
    pub fn take_unfinished(&self) -> Option<PathBuf> {
        self.unfinished().take()
    }

    fn unfinished(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
