//! What a packed model needs, as a constant of the program that draws with it.

/// What a packed model needs in a program without allocator: `mote plan --rust` writes it down as a
/// constant, and everything can be `static` and fit exactly.
///
/// ```
/// use mote::diffusion::sampler::Row;
/// use mote::mem::Aligned;
/// use mote::pipeline::Needs;
/// use mote::weights::Slot;
///
/// const NEEDS: Needs =
///     Needs { model_bytes: 90_000, arena_bytes: 40_960, tensors: 120, rows: 20 };
/// const _: () = NEEDS.must_fit(256 << 10, 128 << 10);
///
/// static ARENA: Aligned<{ NEEDS.arena_bytes }> = Aligned([0; NEEDS.arena_bytes]);
/// static ROWS: [Row; NEEDS.rows] = [Row::EMPTY; NEEDS.rows];
/// static SLOTS: [Slot; NEEDS.tensors] = [Slot::EMPTY; NEEDS.tensors];
/// # assert_eq!((ARENA.0.len(), ROWS.len(), SLOTS.len()), (40_960, 20, 120));
/// ```
///
/// A model that is too large for the part is an error of the compiler, which says by how much:
///
/// ```compile_fail,E0080
/// # use mote::pipeline::Needs;
/// const NEEDS: Needs =
///     Needs { model_bytes: 90_000, arena_bytes: 40_960, tensors: 120, rows: 20 };
/// // error[E0080]: evaluation panicked: the flash is too small for the model by 24464 bytes
/// const _: () = NEEDS.must_fit(64 << 10, 128 << 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of the packed file, which stays where it lies.
    pub model_bytes: usize,
    /// Bytes of the arena, exactly.
    pub arena_bytes: usize,
    /// Tensors of the file: [`Slot`](crate::weights::Slot)s of its index.
    pub tensors: usize,
    /// Rows of the sampler's table: [`Row`](crate::diffusion::sampler::Row)s.
    pub rows: usize,
}
