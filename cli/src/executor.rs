//! The host's threads: a pool that carries out the core's tasks.
//!
//! An island of `unsafe`: it hands a borrowed task to threads that outlive the borrow, and sees to
//! it that none of them touches the task after [`Pool::run`](mote::exec::Executor::run) has
//! returned.
//!
//! A job is open while its task may be taken up. A thread joins by counting itself in under the
//! lock, takes indices from a shared counter until there are none, and counts itself out. The
//! caller works too, closes the job, and waits for those who joined: a thread that wakes late finds
//! the job closed, so nobody ever waits for a sleeper.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mote::exec::Executor;

/// How long an idle thread looks for the next job before it sleeps: the ops of one layer follow
/// each other within microseconds, and waking a thread takes longer than that.
const SPIN: Duration = Duration::from_micros(20);

/// What the core hands over: called with an index and the worker's number.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A task whose lifetime is forgotten.
#[derive(Clone, Copy)]
struct ErasedTask(*const Task<'static>);

// SAFETY: the task behind the pointer is `Sync`, so it may be called from any thread; that it is
// alive whenever it is called is the protocol's promise (see `Shared::work`).
unsafe impl Send for ErasedTask {}

#[derive(Default)]
struct Job {
    /// The open job's task; `None` when there is nothing to join.
    task: Option<ErasedTask>,
    /// How many indices the task has.
    count: usize,
    /// Threads that joined and have not left yet.
    working: usize,
    /// Threads asleep.
    asleep: usize,
    /// The first panic of a task.
    panic: Option<Box<dyn Any + Send>>,
    /// Whether the pool is being dropped.
    ends: bool,
}

#[derive(Default)]
struct Shared {
    job: Mutex<Job>,
    /// Wakes threads for a new job.
    opened: Condvar,
    /// Wakes the caller when the last thread leaves.
    left: Condvar,
    /// Whether there is something to look at, for those who look without the lock.
    open: AtomicBool,
    /// The next index to hand out.
    next: AtomicUsize,
}

/// Some hundred nanoseconds of nothing.
fn pause() {
    for _ in 0..32 {
        std::hint::spin_loop();
    }
}

/// A pool of threads. The caller's thread is worker 0.
///
/// It is not `Sync`, so no task can hold it, and jobs can neither nest nor overlap.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    not_sync: PhantomData<Cell<()>>,
}

impl Pool {
    /// A pool of `workers` workers, the caller's thread among them; at least one.
    ///
    /// # Errors
    /// Where the system will not start a thread.
    pub fn new(workers: usize) -> io::Result<Self> {
        let mut pool = Self {
            shared: Arc::default(),
            threads: Vec::with_capacity(workers.saturating_sub(1)),
            not_sync: PhantomData,
        };
        for worker in 1..workers {
            let shared = Arc::clone(&pool.shared);
            let name = format!("mote-{worker}");
            let thread = thread::Builder::new().name(name).spawn(move || shared.serve(worker))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }
}

impl Shared {
    /// The lock. A panic never happens under it, and every state under it is whole.
    fn lock(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn serve(&self, worker: usize) {
        loop {
            self.spin();
            let mut job = self.lock();
            loop {
                if job.ends {
                    return;
                }
                if job.task.is_some() {
                    break;
                }
                job.asleep += 1;
                job = self.opened.wait(job).unwrap_or_else(PoisonError::into_inner);
                job.asleep -= 1;
            }
            let (Some(task), count) = (job.task, job.count) else { continue };
            job.working += 1;
            drop(job);
            let panic = self.work(task, count, worker);
            let mut job = self.lock();
            job.working -= 1;
            job.panic = job.panic.take().or(panic);
            if job.working == 0 {
                self.left.notify_one();
            }
            // What this thread has seen to its end, it must not join again.
            if self.next.load(Ordering::Relaxed) >= job.count {
                self.close(&mut job);
            }
        }
    }

    /// Looks for a job for a short while.
    fn spin(&self) {
        let since = Instant::now();
        while !self.open.load(Ordering::Acquire) && since.elapsed() < SPIN {
            pause();
        }
    }

    /// Takes indices until there are none left. Gives back what a task panicked with.
    fn work(&self, task: ErasedTask, count: usize, worker: usize) -> Option<Box<dyn Any + Send>> {
        // SAFETY: whoever gets here has counted itself into `working` while the job was open, or is
        // the caller; the caller returns, and thereby ends the borrow, only after closing the job
        // and seeing `working` at 0.
        let task = unsafe { &*task.0 };
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                task(index, worker);
            }
        }));
        // After a panic nobody needs to begin anything new.
        result.err().inspect(|_| self.next.store(count, Ordering::Relaxed))
    }

    /// From here on nobody joins.
    fn close(&self, job: &mut Job) {
        job.task = None;
        self.open.store(false, Ordering::Release);
    }

    /// Opens a job and wakes as many threads as it can use.
    fn open(&self, task: ErasedTask, count: usize) {
        let mut job = self.lock();
        self.next.store(0, Ordering::Relaxed);
        job.task = Some(task);
        job.count = count;
        self.open.store(true, Ordering::Release);
        let wake = job.asleep.min(count - 1);
        drop(job);
        for _ in 0..wake {
            self.opened.notify_one();
        }
    }

    /// Closes the job and waits for those who joined.
    fn finish(&self) -> Option<Box<dyn Any + Send>> {
        let mut job = self.lock();
        self.close(&mut job);
        let since = Instant::now();
        while job.working > 0 {
            if since.elapsed() < SPIN {
                drop(job);
                pause();
                job = self.lock();
            } else {
                job = self.left.wait(job).unwrap_or_else(PoisonError::into_inner);
            }
        }
        job.panic.take()
    }
}

// SAFETY: every index comes once from the counter, as no job opens before the former one is
// finished; a thread has a number of its own and carries out one call at a time; `finish` waits for
// all calls.
unsafe impl Executor for Pool {
    fn workers(&self) -> usize {
        self.threads.len() + 1
    }

    fn run(&self, count: usize, task: &Task<'_>) {
        if self.threads.is_empty() || count <= 1 {
            return (0..count).for_each(|index| task(index, 0));
        }
        let task: *const Task<'_> = task;
        // SAFETY: only the lifetime changes; see `Shared::work` for why it is never outlived.
        let task = ErasedTask(unsafe {
            std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task)
        });
        self.shared.open(task, count);
        let own = self.shared.work(task, count, 0);
        let others = self.shared.finish();
        if let Some(payload) = own.or(others) {
            panic::resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().ends = true;
        self.shared.opened.notify_all();
        for thread in self.threads.drain(..) {
            // A thread catches every panic of a task, so it has none of its own to report.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_index_is_called_once_by_a_worker_that_does_one_thing_at_a_time() {
        for workers in [1, 2, 3, 7] {
            let pool = Pool::new(workers).unwrap();
            assert_eq!(pool.workers(), workers);
            for count in [0, 1, 2, 6, 7, 8, 1000] {
                let calls: Vec<_> = (0..count).map(|_| AtomicU32::new(0)).collect();
                let busy: Vec<_> = (0..workers).map(|_| AtomicBool::new(false)).collect();
                pool.run(count, &|index, worker| {
                    assert!(!busy[worker].swap(true, Ordering::AcqRel));
                    calls[index].fetch_add(1, Ordering::Relaxed);
                    busy[worker].store(false, Ordering::Release);
                });
                assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_in_a_row_lose_nothing() {
        let pool = Pool::new(4).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..20_000 {
            pool.run(5, &|index, _| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 20_000 * 10);
    }

    #[test]
    fn sleeping_threads_wake_for_a_job() {
        let pool = Pool::new(2).unwrap();
        thread::sleep(Duration::from_millis(20));
        // Each call waits for the other: one worker alone would never come through.
        let both = std::sync::Barrier::new(2);
        pool.run(2, &|_, _| {
            both.wait();
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..50 {
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|index, _| assert!(index != 37, "thirty-seven"));
            }));
            let payload = result.unwrap_err();
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"thirty-seven"));
        }
        let calls = AtomicUsize::new(0);
        pool.run(100, &|_, _| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 100);
    }
}
