//! The host's threads: a pool that carries out the core's tasks.
//!
//! An island of `unsafe`: it hands a borrowed task to threads that outlive the borrow, and sees to
//! it that none of them touches the task after [`Pool::run`](mote::exec::Executor::run) has
//! returned.
//!
//! A job lies on the caller's stack and is open while `Shared::job` points to it. A thread
//! counts itself in, and only then looks whether a job is open; it takes indices from shared
//! counters until there are none, and counts itself out. The caller works too, closes the job, and
//! waits for those who are counted in: a thread that comes late finds the job closed, so nobody
//! waits for a sleeper. Ops of a few microseconds follow each other, so all of this goes without a
//! lock; locks are for those who sleep.

#![deny(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mote::exec::Executor;

/// How long a thread without work looks for the next job before it sleeps. A network's ops follow
/// each other within microseconds, but for those that one thread does alone, and waking a thread
/// takes some 50 µs; between evaluations nobody looks for longer than this.
const SPIN: Duration = Duration::from_micros(100);

/// Looks between two at the clock.
const LOOKS: usize = 64;

/// What the core hands over: called with an index and the worker's number.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What a task panicked with.
type Panic = Box<dyn Any + Send>;

/// An open task, on the caller's stack.
#[repr(align(64))]
struct Job {
    /// The task, whose lifetime is forgotten.
    task: *const Task<'static>,
    /// How many indices it has.
    count: usize,
    /// Whether a thread has panicked: nobody needs to begin anything new.
    stops: AtomicBool,
    /// The first panic of a thread.
    panic: Mutex<Option<Panic>>,
}

impl Job {
    /// Keeps the first panic. A later one is forgotten and not dropped: to drop it runs code of the
    /// task's, which may panic once more, and then this thread would never be counted out.
    fn keep(&self, panic: Panic) {
        let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            None => *first = Some(panic),
            Some(_) => std::mem::forget(panic),
        }
    }
}

/// A number on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// What threads look at, and what they then want to know: one cache line.
#[derive(Default)]
struct Door {
    /// How many jobs there have been, and whether the pool ends.
    opened: AtomicUsize,
    /// The open job; null when there is nothing to join.
    job: AtomicPtr<Job>,
}

#[derive(Default)]
struct Shared {
    door: Apart<Door>,
    /// The open job's next index in each worker's share.
    next: Vec<Apart<AtomicUsize>>,
    /// Threads that are counted in.
    working: Apart<AtomicUsize>,
    /// Threads asleep, or about to be.
    asleep: AtomicUsize,
    /// Whether the caller sleeps until no thread is counted in, or is about to.
    waits: AtomicBool,
    /// Whether the pool is being dropped.
    ends: AtomicBool,
    /// Held from a last look to sleep, and by those who wake others.
    sleep: Mutex<()>,
    /// Wakes threads for a new job.
    wake: Condvar,
    /// Wakes the caller when the last thread is counted out.
    left: Condvar,
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
        let next = (0..workers.max(1)).map(|_| Apart::default()).collect();
        let mut pool = Self {
            shared: Arc::new(Shared { next, ..Shared::default() }),
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

/// Asks for the cache line at this address, which may be anything, to be read or `WRITTEN` soon.
fn fetch<const WRITTEN: bool>(_at: *const impl Sized) {
    // SAFETY: a hint, that touches nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        match WRITTEN {
            true => _mm_prefetch::<_MM_HINT_ET0>(_at.cast()),
            false => _mm_prefetch::<_MM_HINT_T0>(_at.cast()),
        }
    }
}

/// Looks, for at most [`SPIN`], until `found`; whether it was.
fn look_for(found: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if found() {
                return true;
            }
            std::hint::spin_loop();
        }
        if since.elapsed() >= SPIN {
            return false;
        }
    }
}

impl Shared {
    /// The lock. Nothing is behind it that a panic could leave half done.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let is_new = || self.door.0.opened.load(SeqCst) != seen;
            if !look_for(is_new) {
                self.sleep_until(is_new);
            }
            seen = self.door.0.opened.load(Acquire);
            if self.ends.load(Acquire) {
                return;
            }
            self.join(worker);
        }
    }

    /// Sleeps until there is something new.
    fn sleep_until(&self, is_new: impl Fn() -> bool) {
        let mut guard = self.lock();
        // Either this thread sees what is new, or whoever brings it sees this one asleep: both say
        // their own before they look for the other's.
        self.asleep.fetch_add(1, SeqCst);
        while !is_new() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, SeqCst);
    }

    /// Joins the open job, if there still is one.
    fn join(&self, worker: usize) {
        // What is needed at once when the job is still open comes meanwhile.
        fetch::<false>(self.door.0.job.load(Relaxed));
        fetch::<true>(&raw const self.next[worker]);
        // Counted in before the look at the job, as the caller closes it before its look at who is
        // counted in: one of them sees the other.
        self.working.0.fetch_add(1, SeqCst);
        let job = self.door.0.job.load(SeqCst);
        if !job.is_null() {
            // SAFETY: the job was open after this thread had counted itself in, so its caller does
            // not return, and thereby end the job's life, before this thread counts itself out.
            let job = unsafe { &*job };
            // SAFETY: as above; the task lives as long as its job.
            if let Err(panic) = unsafe { self.work(job, worker) } {
                job.keep(panic);
            }
        }
        if self.working.0.fetch_sub(1, SeqCst) == 1 && self.waits.load(SeqCst) {
            drop(self.lock());
            self.left.notify_one();
        }
    }

    /// The indices that a worker begins with: neighbours, and about the same rows of a tensor in
    /// each op, so that a core finds in its cache what it has written.
    fn share(&self, count: usize, worker: usize) -> Range<usize> {
        let workers = self.next.len();
        worker * count / workers..(worker + 1) * count / workers
    }

    /// Takes indices until there are none left, first of its own share and then of the others'.
    /// Gives back what a task panicked with.
    ///
    /// # Safety
    /// The job is open, and its task alive.
    unsafe fn work(&self, job: &Job, worker: usize) -> Result<(), Panic> {
        // SAFETY: the caller's.
        let task = unsafe { &*job.task };
        let workers = self.next.len();
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            for owner in (worker..workers).chain(0..worker) {
                let end = self.share(job.count, owner).end;
                while self.next[owner].0.load(Relaxed) < end && !job.stops.load(Relaxed) {
                    let index = self.next[owner].0.fetch_add(1, Relaxed);
                    if index < end {
                        task(index, worker);
                    }
                }
            }
        }));
        result.inspect_err(|_| job.stops.store(true, Relaxed))
    }

    /// Opens a job and wakes as many threads as it can use.
    fn open(&self, job: &Job) {
        for (worker, next) in self.next.iter().enumerate() {
            next.0.store(self.share(job.count, worker).start, Relaxed);
        }
        self.door.0.job.store(ptr::from_ref(job).cast_mut(), SeqCst);
        self.door.0.opened.fetch_add(1, SeqCst);
        let asleep = self.asleep.load(SeqCst);
        if asleep > 0 {
            drop(self.lock());
            for _ in 0..asleep.min(job.count - 1) {
                self.wake.notify_one();
            }
        }
    }

    /// Closes the job and waits for those who are counted in.
    fn close(&self) {
        self.door.0.job.store(ptr::null_mut(), SeqCst);
        let is_left = || self.working.0.load(SeqCst) == 0;
        if look_for(is_left) {
            return;
        }
        let mut guard = self.lock();
        self.waits.store(true, SeqCst);
        while !is_left() {
            guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waits.store(false, SeqCst);
    }
}

// SAFETY: every index comes once from the counter of its share, as no job opens before all threads
// of the former one are counted out; a thread has a number of its own and
// carries out one call at a time; `close` waits for all calls, and whoever is counted out has
// released what it wrote.
unsafe impl Executor for Pool {
    fn workers(&self) -> usize {
        self.threads.len() + 1
    }

    fn run(&self, count: usize, task: &Task<'_>) {
        if self.threads.is_empty() || count <= 1 {
            return (0..count).for_each(|index| task(index, 0));
        }
        let task: *const Task<'_> = task;
        // SAFETY: only the lifetime changes; see `Shared::join` for why it is never outlived.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        let job = Job { task, count, stops: AtomicBool::new(false), panic: Mutex::new(None) };
        self.shared.open(&job);
        // SAFETY: the task is borrowed until this function returns.
        let own = unsafe { self.shared.work(&job, 0) };
        // Whatever has happened: nothing unwinds before every thread is counted out.
        self.shared.close();
        own.unwrap_or_else(|panic| job.keep(panic));
        let first = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(payload) = first {
            panic::resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ends.store(true, SeqCst);
        self.shared.door.0.opened.fetch_add(1, SeqCst);
        drop(self.shared.lock());
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread catches every panic of a task, so it has none of its own to report.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

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
        let jobs = if cfg!(miri) { 50 } else { 20_000 };
        for _ in 0..jobs {
            pool.run(5, &|index, _| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), jobs * 10);
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

    /// Jobs that a panic ends; Miri takes its time.
    const PANICS: usize = if cfg!(miri) { 3 } else { 50 };

    /// What comes of `task` for so many indices: the message of its panic.
    fn panic_of(pool: &Pool, count: usize, task: &Task<'_>) -> String {
        let result = panic::catch_unwind(AssertUnwindSafe(|| pool.run(count, task)));
        let payload = result.expect_err("a task has panicked");
        let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).expect("it is a text")
    }

    fn assert_lives(pool: &Pool) {
        let calls: Vec<_> = (0..100).map(|_| AtomicU32::new(0)).collect();
        pool.run(100, &|index, _| {
            calls[index].fetch_add(1, Ordering::Relaxed);
        });
        assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for workers in [1, 2, 3] {
            let pool = Pool::new(workers).unwrap();
            for at in (0..PANICS).map(|round| round * 2) {
                let said = panic_of(&pool, 100, &|index, _| assert!(index != at, "at {at}"));
                assert_eq!(said, format!("at {at}"));
            }
            assert_lives(&pool);
        }
    }

    #[test]
    fn panics_on_all_threads_at_once_end_in_one() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..PANICS {
            // Nobody goes on before all are here.
            let all = std::sync::Barrier::new(3);
            let said = panic_of(&pool, 3, &|index, _| {
                all.wait();
                panic!("{index} of 3");
            });
            assert!(said.ends_with("of 3"), "{said}");
        }
        assert_lives(&pool);
    }

    #[test]
    fn a_panic_whose_message_panics_when_it_is_dropped_holds_nobody_up() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                assert!(thread::panicking(), "dropped");
            }
        }
        let pool = Pool::new(3).unwrap();
        let all = std::sync::Barrier::new(3);
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            pool.run(3, &|_, _| {
                all.wait();
                panic::panic_any(Bomb);
            });
        }));
        // It is this test's now, and goes off in nobody's hands.
        std::mem::forget(result.unwrap_err());
        assert_lives(&pool);
    }

    #[test]
    fn nothing_of_a_job_runs_any_more_once_its_panic_is_with_the_caller() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..PANICS {
            let running = AtomicUsize::new(0);
            panic_of(&pool, 64, &|index, _| {
                running.fetch_add(1, Ordering::SeqCst);
                assert!(index != 1, "at one");
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            });
            // The one that panicked never came to its end.
            assert_eq!(running.load(Ordering::SeqCst), 1);
        }
    }
}
