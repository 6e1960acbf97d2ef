//! mote's core for C: the functions of `mote.h`, which says what each does.
//!
//! An island of `unsafe`: it turns the pointers that C gives into slices, once, and lays out the
//! block of memory. What C promises stands in `mote.h`; everything else is the core's
//! [`Session`], and safe.
#![no_std]
#![allow(clippy::result_large_err, reason = "a fault names a weight")]
#![deny(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

#[cfg(not(target_os = "none"))]
extern crate std;

mod message;
mod request;

use core::mem::MaybeUninit;
use core::ptr::addr_of_mut;

use mote::Error;
use mote::arch::Isa;
use mote::diffusion::sampler::Row;
use mote::mem::ALIGNMENT;
use mote::pipeline::{Fault, Model, Request, Session};
use mote::weights::Slot;

use message::Message;
pub use message::{MESSAGE_BYTES, Status};
pub use request::MoteRequest;

/// Bytes of C's `struct mote`.
pub const STATE_BYTES: usize = if size_of::<usize>() == 8 { 4608 } else { 3840 };

/// Bytes of a row of a sampler's table.
pub const ROW_BYTES: usize = 192;

/// Bytes of the index for each tensor.
pub const SLOT_BYTES: usize = if size_of::<usize>() == 8 { 80 } else { 48 };

/// C's `struct mote`: room for all that a run knows.
#[repr(C, align(64))]
pub struct Mote([MaybeUninit<u8>; STATE_BYTES]);

/// What a `struct mote` holds, once `mote_plan` or `mote_init` was called on it.
struct State {
    message: Message,
    session: Option<Session<'static>>,
}

const _: () = assert!(size_of::<State>() <= STATE_BYTES && align_of::<State>() <= ALIGNMENT);
const _: () = assert!(size_of::<Row>() == ROW_BYTES && size_of::<Slot>() == SLOT_BYTES);
const _: () = assert!(align_of::<Mote>() == ALIGNMENT && size_of::<Mote>() == STATE_BYTES);

/// C's `struct mote_plan`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "mote.h says it")]
pub struct MotePlan {
    pub multiply_adds: u64,
    pub memory_bytes: usize,
    pub arena_bytes: usize,
    pub width: u32,
    pub height: u32,
    pub steps: u32,
}

/// A bare machine has nobody to tell.
#[cfg(all(target_os = "none", not(test)))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// The block of memory, cut.
struct Block {
    rows: &'static mut [Row],
    slots: &'static mut [Slot],
    rest: &'static mut [u8],
    /// Bytes before the rest.
    used: usize,
}

/// The bytes of a table, up to where the next one may begin.
fn table_bytes<T>(count: usize) -> Result<usize, Error> {
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes < isize::MAX as usize / 4);
    bytes.map(|b| b.next_multiple_of(ALIGNMENT)).ok_or(Error::Overflow { what: "a table" })
}

impl Block {
    /// Cuts `rows` rows and `slots` slots off the front of a block that is aligned to
    /// [`ALIGNMENT`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where it ends before the rest.
    ///
    /// # Safety
    /// `memory` points to `bytes` bytes that nothing else uses for as long as the block is used.
    unsafe fn cut(memory: *mut u8, bytes: usize, [rows, slots]: [usize; 2]) -> Result<Self, Error> {
        let (rows_bytes, slots_bytes) = (table_bytes::<Row>(rows)?, table_bytes::<Slot>(slots)?);
        let used = rows_bytes + slots_bytes;
        if used > bytes {
            return Err(Error::OutOfMemory { needed: used, limit: bytes });
        }
        let first = memory.cast::<Row>();
        for i in 0..rows {
            // SAFETY: inside the block, as just checked, which is aligned to more than a row is.
            unsafe { first.add(i).write(Row::EMPTY) };
        }
        // SAFETY: the rows have just been written, and nothing else uses them.
        let rows = unsafe { core::slice::from_raw_parts_mut(first, rows) };
        // SAFETY: inside the block, behind the rows; `rows_bytes` is a multiple of the alignment.
        let first = unsafe { memory.add(rows_bytes) }.cast::<Slot>();
        for i in 0..slots {
            // SAFETY: as with the rows.
            unsafe { first.add(i).write(Slot::EMPTY) };
        }
        // SAFETY: as with the rows.
        let slots = unsafe { core::slice::from_raw_parts_mut(first, slots) };
        // SAFETY: inside the block or at its end.
        let rest = unsafe { memory.add(used) };
        // SAFETY: the caller's: nothing else uses these bytes, and C's bytes hold some value.
        let rest = unsafe { core::slice::from_raw_parts_mut(rest, bytes - used) };
        Ok(Self { rows, slots, rest, used })
    }
}

/// What C gives to `mote_plan` and `mote_init`.
struct Given {
    model: *const u8,
    model_bytes: usize,
    request: *const MoteRequest,
    memory: *mut u8,
    memory_bytes: usize,
}

impl Given {
    /// The model and the request, and how many rows and training times its table has.
    ///
    /// # Safety
    /// As `mote.h` says of the pointers.
    unsafe fn open(&self) -> Result<(Model<'static>, Request<'static>, [usize; 2]), Fault> {
        // SAFETY: the caller's: there are so many bytes, for as long as a picture is on its way.
        let file = unsafe { core::slice::from_raw_parts(self.model, self.model_bytes) };
        let model = Model::open(file)?;
        // SAFETY: the caller's.
        let request = unsafe { (*self.request).to_request() }?;
        let sizes = model.table(&request)?;
        Ok((model, request, sizes))
    }

    fn is_whole(&self) -> bool {
        let is_aligned = (self.memory as usize).is_multiple_of(ALIGNMENT);
        !self.model.is_null() && !self.request.is_null() && !self.memory.is_null() && is_aligned
    }
}

/// # Safety
/// As `mote.h` says of the pointers.
unsafe fn plan(given: &Given) -> Result<MotePlan, Fault> {
    // SAFETY: the caller's.
    let (model, request, [rows, times]) = unsafe { given.open() }?;
    // SAFETY: the caller's.
    let block = unsafe { Block::cut(given.memory, given.memory_bytes, [rows, 0]) }?;
    let needed = block.used.saturating_add(times.saturating_mul(size_of::<f32>()));
    if needed > given.memory_bytes {
        return Err(Error::OutOfMemory { needed, limit: given.memory_bytes }.into());
    }
    let first = block.rest.as_mut_ptr().cast::<f32>();
    for i in 0..times {
        // SAFETY: inside the block, as just checked; what is left of it is aligned.
        unsafe { first.add(i).write(0.0) };
    }
    // SAFETY: as just written.
    let scratch = unsafe { core::slice::from_raw_parts_mut(first, times) };
    let (needs, plan, [height, width]) =
        model.plan(&request, Isa::compiled(), block.rows, scratch)?;
    let tables = table_bytes::<Row>(needs.rows)? + table_bytes::<Slot>(needs.tensors)?;
    Ok(MotePlan {
        multiply_adds: plan.multiply_adds(),
        memory_bytes: tables.saturating_add(needs.arena_bytes),
        arena_bytes: needs.arena_bytes,
        width: width as u32,
        height: height as u32,
        steps: (needs.rows + 2) as u32,
    })
}

/// # Safety
/// As `mote.h` says of the pointers.
unsafe fn begin(given: &Given) -> Result<Session<'static>, Fault> {
    // SAFETY: the caller's.
    let (model, request, [rows, _]) = unsafe { given.open() }?;
    let sizes = [rows, model.tensors()?];
    // SAFETY: the caller's.
    let block = unsafe { Block::cut(given.memory, given.memory_bytes, sizes) }?;
    let Block { rows, slots, rest, used } = block;
    Session::begin(model, request, Isa::compiled(), rows, slots, rest).map_err(|fault| match fault
        .error
    {
        Error::OutOfMemory { needed, .. } => {
            let (needed, limit) = (needed.saturating_add(used), given.memory_bytes);
            Error::OutOfMemory { needed, limit }.into()
        }
        _ => fault,
    })
}

/// Makes a fresh state in `m`; `None` where that cannot be.
///
/// # Safety
/// `m` is null or points to a `struct mote` that nothing else uses.
unsafe fn fresh<'a>(m: *mut Mote) -> Option<&'a mut State> {
    if m.is_null() || !m.is_aligned() {
        return None;
    }
    let state = m.cast::<State>();
    // SAFETY: room enough, and aligned, as asserted above; a state has nothing to be dropped.
    unsafe {
        addr_of_mut!((*state).message).write(Message::EMPTY);
        addr_of_mut!((*state).session).write(None);
        Some(&mut *state)
    }
}

/// The state in `m`.
///
/// # Safety
/// `m` is null or points to a `struct mote` that `fresh` was called on and nothing else uses.
unsafe fn state<'a>(m: *mut Mote) -> Option<&'a mut State> {
    // SAFETY: the caller's.
    unsafe { m.cast::<State>().as_mut() }
}

/// See `mote.h`.
///
/// # Safety
/// `request` is null or points to a `struct mote_request`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_request_init(request: *mut MoteRequest) {
    if !request.is_null() {
        // SAFETY: the caller's.
        unsafe { request.write(MoteRequest::DEFAULT) };
    }
}

/// See `mote.h`.
///
/// # Safety
/// The pointers are what `mote.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_plan(
    m: *mut Mote,
    model: *const u8,
    model_bytes: usize,
    request: *const MoteRequest,
    memory: *mut u8,
    memory_bytes: usize,
    result: *mut MotePlan,
) -> Status {
    // SAFETY: the caller's.
    let Some(state) = (unsafe { fresh(m) }) else { return Status::Argument };
    let given = Given { model, model_bytes, request, memory, memory_bytes };
    if !given.is_whole() || result.is_null() {
        return state.message.argument();
    }
    // SAFETY: the caller's.
    match unsafe { plan(&given) } {
        Ok(plan) => {
            // SAFETY: the caller's.
            unsafe { result.write(plan) };
            Status::Ok
        }
        Err(fault) => state.message.set(&fault),
    }
}

/// See `mote.h`.
///
/// # Safety
/// The pointers are what `mote.h` says, and stay so until the picture is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_init(
    m: *mut Mote,
    model: *const u8,
    model_bytes: usize,
    request: *const MoteRequest,
    memory: *mut u8,
    memory_bytes: usize,
) -> Status {
    // SAFETY: the caller's.
    let Some(state) = (unsafe { fresh(m) }) else { return Status::Argument };
    let given = Given { model, model_bytes, request, memory, memory_bytes };
    if !given.is_whole() {
        return state.message.argument();
    }
    // SAFETY: the caller's.
    match unsafe { begin(&given) } {
        Ok(session) => {
            state.session = Some(session);
            Status::Ok
        }
        Err(fault) => state.message.set(&fault),
    }
}

/// See `mote.h`.
///
/// # Safety
/// `m` is null or was given to `mote_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_step(m: *mut Mote) -> Status {
    // SAFETY: the caller's.
    let Some(State { message, session }) = (unsafe { state(m) }) else { return Status::Argument };
    *message = Message::EMPTY;
    let Some(session) = session else { return message.argument() };
    match session.step() {
        Ok(true) => Status::More,
        Ok(false) => Status::Ok,
        Err(fault) => message.set(&fault),
    }
}

/// See `mote.h`.
///
/// # Safety
/// `m` is null or was given to `mote_init`; `rgb` points to `rgb_bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_row(m: *mut Mote, rgb: *mut u8, rgb_bytes: usize) -> Status {
    // SAFETY: the caller's.
    let Some(State { message, session }) = (unsafe { state(m) }) else { return Status::Argument };
    *message = Message::EMPTY;
    let Some(session) = session.as_mut().filter(|_| !rgb.is_null()) else {
        return message.argument();
    };
    // SAFETY: the caller's; whatever C's bytes hold is overwritten.
    let rgb = unsafe { core::slice::from_raw_parts_mut(rgb, rgb_bytes) };
    match session.row(rgb) {
        Ok(true) => Status::More,
        Ok(false) => Status::Ok,
        Err(Error::Cancelled | Error::Capacity { .. }) => message.argument(),
        Err(error) => message.set(&error.into()),
    }
}

/// See `mote.h`.
///
/// # Safety
/// `m` is null or was given to `mote_plan` or `mote_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_error_message(m: *const Mote) -> *const u8 {
    // SAFETY: the caller's.
    match unsafe { m.cast::<State>().as_ref() } {
        Some(state) => state.message.as_ptr(),
        None => c"there is no struct mote, or it is not aligned".as_ptr().cast(),
    }
}
