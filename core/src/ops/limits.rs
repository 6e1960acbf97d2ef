//! How work is cut: into blocks that stay in a core's cache, tasks that threads share, bands that
//! take little memory. One value for all ops, so that tests meet every cut at small sizes.

use crate::arch::MR_MAX;

/// Where ops cut their work. The default is measured on machines with 512 KiB of cache or more a
/// core. Any other value gives results that differ in rounding at most, and only where a field
/// says so; a plan holds for the value that it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fewer bytes than these are moved by one thread, and no further than so many bytes.
    pub least_shift_bytes: usize,
    /// Bytes that one task moves.
    pub moved_bytes: usize,
    /// Elements in one task of a sum, a product or a copy: some microseconds.
    pub elements: usize,
    /// Elements in one task of an activation.
    pub activated_elements: usize,
    /// Bytes in one task that brings rows to another form, about: some microseconds.
    pub converted_bytes: usize,
    /// Bytes of panels that a task goes through again for each tile of rows: beside them a core's
    /// cache has room for the rows, and for what is fetched for the next task.
    pub column_bytes: usize,
    /// Bytes of the left side's rows that belong to one task.
    pub row_bytes: usize,
    /// Bytes of panels that are packed or expanded at a time.
    pub packed_bytes: usize,
    /// Tasks that each worker should find, so that all end at about the same time.
    pub tasks_per_worker: usize,
    /// Steps of a panel and a row that a task has at least: one of 16 columns takes a cycle with
    /// AVX-512, so this is two microseconds.
    pub least_steps: usize,
    /// Pixels of the output in a band, about: enough work for many threads, and few beside a large
    /// picture.
    pub band_pixels: usize,
    /// Pixels of a block of a doubled convolution, at most: whole tiles of rows on every
    /// instruction set.
    pub doubled_pixels: usize,
    /// Panels that such a block is multiplied with at a time, at most: with its pixels, nine
    /// products of 108 KiB.
    pub doubled_panels: usize,
    /// Pixels of a line that become left sides at a time, at most.
    pub doubled_run: usize,
    /// Pixels of the output in one task of a convolution to few channels, at most: so few that the
    /// products of their taps stay in a core's cache.
    pub spread_pixels: usize,
    /// Rows in one task of a convolution of one tap, at most,
    pub pointwise_rows: usize,
    /// and rows of it that are made ready at a time.
    pub ready_rows: usize,
    /// Elements in one task of a normalisation, about: some microseconds.
    pub normalised_elements: usize,
    /// Elements that are normalised at a time, about: few enough to stay in the nearest cache.
    pub near_elements: usize,
    /// Elements that are normalised in place at a time, about: they are copied beside.
    pub replaced_elements: usize,
    /// Elements of two tensors that each worker joins at a time, about: less than a norm's, as x,
    /// the skip, a shortcut and its rows lie beside them.
    pub joined_elements: usize,
    /// The most blocks of pixels whose statistics are taken apart, and merged afterwards. Changes
    /// how a group normalisation rounds.
    pub moment_blocks: usize,
    /// The fewest pixels in such a block. Changes how a group normalisation rounds.
    pub moment_pixels: usize,
    /// Bytes of keys and values that all queries look at before the next heads' turn.
    pub attended_bytes: usize,
    /// Bytes of all heads' keys, at most, that are left as rows: a core's cache holds them anyway.
    pub few_key_bytes: usize,
    /// Tokens that go through the feed-forward layers together: enough that packing the weights
    /// costs little beside the product, few enough that the inner tensor, eight times as wide as a
    /// token, is not what decides the arena's size.
    pub feed_forward_rows: usize,
    /// The most parts that the tokens are cut into: very large pictures are cut into larger parts.
    pub feed_forward_parts: usize,
    /// On the way back: pixels in a band, about, so few that some rows of the transposed input and
    /// a panel of the output's gradient stay in a core's cache. Changes how a weight's gradient
    /// rounds; so do the next three.
    pub gradient_pixels: usize,
    /// Rows whose sum is one partial sum of a bias's gradient.
    pub summed_rows: usize,
    /// Elements whose sum is one partial sum of a normalisation's gradients.
    pub summed_elements: usize,
    /// Panels of queries in a block, of attention's gradients.
    pub query_panels: usize,
}

impl Limits {
    /// What every context has that is not given another.
    pub const DEFAULT: Self = Self {
        least_shift_bytes: 32 << 10,
        moved_bytes: 16 << 10,
        elements: 8 << 10,
        activated_elements: 16 << 10,
        converted_bytes: 16 << 10,
        column_bytes: 256 << 10,
        row_bytes: 512 << 10,
        packed_bytes: 2 << 20,
        tasks_per_worker: 8,
        least_steps: 8 << 10,
        band_pixels: 8192,
        doubled_pixels: 48,
        doubled_panels: 4,
        doubled_run: 16,
        spread_pixels: 2048,
        pointwise_rows: 256,
        ready_rows: 48,
        normalised_elements: 4 << 10,
        near_elements: 4096,
        replaced_elements: 1024,
        joined_elements: 1024,
        moment_blocks: 64,
        moment_pixels: 32,
        attended_bytes: 512 << 10,
        few_key_bytes: 64 << 10,
        feed_forward_rows: 512,
        feed_forward_parts: 64,
        gradient_pixels: 1536,
        summed_rows: 256,
        summed_elements: 8 << 10,
        query_panels: 4,
    };

    /// # Panics
    /// Where a limit is 0 that something is divided by, or goes on by.
    pub(super) fn check(&self) {
        let steps = [
            self.least_shift_bytes,
            self.elements,
            self.activated_elements,
            self.least_steps,
            self.doubled_panels,
            self.doubled_run,
            self.ready_rows,
            self.moment_blocks,
            self.feed_forward_parts,
            self.gradient_pixels,
            self.summed_rows,
            self.query_panels,
        ];
        assert!(steps.iter().all(|&step| step > 0), "a limit is at least 1");
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A block of a doubled convolution is whole tiles of rows, of 6, 8, 12 or 16.
const _: () = assert!(Limits::DEFAULT.doubled_pixels.is_multiple_of(MR_MAX));
