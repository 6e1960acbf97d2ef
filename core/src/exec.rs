//! Who does the work: the host's threads, behind a trait, and safe ways to cut work for them.
//!
//! Work is cut along the *output*: every worker writes places of its own, and no sum is ever split,
//! so the number of workers changes no bit. An island of `unsafe`: it hands disjoint parts of one
//! slice to several threads.

use core::marker::PhantomData;
use core::ops::Range;

/// Runs a task for many indices, possibly on several threads.
///
/// # Safety
/// `run` must call `task(index, worker)` exactly once for each index below `count`, with
/// `worker < workers()`, never two calls at a time with the same worker, and must return (or
/// unwind) only after all calls have ended and what they wrote can be seen by the caller.
pub unsafe trait Executor {
    /// How many workers there are; at least 1. It never changes.
    fn workers(&self) -> usize;

    /// Calls `task(index, worker)` for each index below `count`.
    fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync));
}

/// The executor without threads: everything happens here and now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequential;

// SAFETY: one plain loop, one worker.
unsafe impl Executor for Sequential {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        for index in 0..count {
            task(index, 0);
        }
    }
}

/// How many of `count` rows a task should have, `most` at most: each worker finds as many tasks as
/// the others, where there are more than workers. So all end at about the same time, and each finds
/// in its cache the rows that it wrote in the op before.
pub fn even_share(executor: &dyn Executor, count: usize, most: usize) -> usize {
    let workers = executor.workers();
    let tasks = match count.div_ceil(most.max(1)) {
        few if few <= workers => few.max(1),
        many => many.next_multiple_of(workers),
    };
    count.div_ceil(tasks).max(1)
}

/// The most of `count` rows that one worker finds in its share, where tasks have `rows` each.
pub fn longest_share(count: usize, rows: usize, workers: usize) -> usize {
    count.div_ceil(rows).div_ceil(workers) * rows
}

/// Cuts `out` into chunks of `chunk` elements (the last may be shorter) and calls
/// `task(index, chunk, scratch)` for each, where `scratch` is the worker's own share of `scratch`.
///
/// # Panics
/// Where `chunk` is 0.
pub fn for_each_chunk<T: Send, S: Send>(
    executor: &dyn Executor,
    out: &mut [T],
    chunk: usize,
    scratch: &mut [S],
    task: impl Fn(usize, &mut [T], &mut [S]) + Sync,
) {
    assert!(chunk > 0, "a chunk holds at least one element");
    let len = out.len();
    let out = Shared::new(out);
    let scratch = Shares::new(executor, scratch);
    executor.run(len.div_ceil(chunk), &|index, worker| {
        let start = index * chunk;
        assert!(start < len, "the executor made up an index");
        // SAFETY: chunks of different indices are disjoint, and the executor calls each index once.
        let part = unsafe { out.range(start, chunk.min(len - start)) };
        // SAFETY: the executor never runs two tasks at a time as the same worker.
        let scratch = unsafe { scratch.of(worker) };
        task(index, part, scratch);
    });
}

/// Cuts several slices into as many chunks each, `(slice, elements of a chunk)`, of which the last
/// may be shorter, and calls `task(index, chunks)` for each set of them.
///
/// # Panics
/// Where a chunk is 0 or there are not as many of each.
pub fn for_each_together<const N: usize>(
    executor: &dyn Executor,
    slices: [(&mut [f32], usize); N],
    task: impl Fn(usize, [&mut [f32]; N]) + Sync,
) {
    let slices = slices.map(|(slice, chunk)| {
        assert!(chunk > 0, "a chunk holds at least one element");
        (slice.len(), chunk, Shared::new(slice))
    });
    let count = slices.first().map_or(0, |(len, chunk, _)| len.div_ceil(*chunk));
    let same = slices.iter().all(|(len, chunk, _)| len.div_ceil(*chunk) == count);
    assert!(same, "as many chunks of each");
    executor.run(count, &|index, _| {
        assert!(index < count, "the executor made up an index");
        task(
            index,
            core::array::from_fn(|i| {
                let (len, chunk, slice) = &slices[i];
                let start = index * chunk;
                // SAFETY: chunks of different indices are disjoint, the executor calls each index
                // once, and the slices are borrowed exclusively and apart.
                unsafe { slice.range(start, (*chunk).min(len - start)) }
            }),
        );
    });
}

/// Where a tile lies in the matrix it was cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePlace {
    /// First row.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// First column.
    pub column: usize,
    /// Number of columns.
    pub columns: usize,
}

/// A rectangle of a row-major matrix, to be written by one worker.
pub struct TileMut<'a> {
    first: *mut f32,
    stride: usize,
    place: TilePlace,
    matrix: PhantomData<&'a mut [f32]>,
}

impl TileMut<'_> {
    /// Where the tile lies in the matrix.
    pub fn place(&self) -> TilePlace {
        self.place
    }

    /// Some `columns` of up to `N` rows from `first` on; rows that the tile lacks are empty.
    ///
    /// # Panics
    /// Where the tile does not have such columns.
    pub fn rows<const N: usize>(&mut self, first: usize, columns: Range<usize>) -> [&mut [f32]; N] {
        let TilePlace { rows, columns: width, .. } = self.place;
        assert!(columns.start <= columns.end && columns.end <= width, "a tile has these columns");
        core::array::from_fn(|i| match first + i < rows {
            false => &mut [][..],
            // SAFETY: as in `row`; different rows are disjoint, as a row is no longer than the
            // stride, and all are borrowed from the tile.
            true => unsafe {
                let begin = self.first.add((first + i) * self.stride + columns.start);
                core::slice::from_raw_parts_mut(begin, columns.len())
            },
        })
    }

    /// Row `index` of the tile, counted from the tile's first.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.place.rows, "a tile's row is out of range");
        // SAFETY: `for_each_tile` has checked that the tile lies inside the matrix, and gave this
        // rectangle to one worker only.
        unsafe {
            core::slice::from_raw_parts_mut(self.first.add(index * self.stride), self.place.columns)
        }
    }
}

/// Cuts some `columns` of the row-major matrix `out`, whose rows have `stride` elements, into tiles
/// of `tile` rows and columns (those at the edges may be smaller) and calls `task(tile, scratch)`
/// for each, where `scratch` is the worker's own share of `scratch`.
///
/// # Panics
/// Where a tile has no rows or columns, or `out` is not made of whole rows that have these columns.
pub fn for_each_tile(
    executor: &dyn Executor,
    out: &mut [f32],
    stride: usize,
    columns: Range<usize>,
    tile: [usize; 2],
    scratch: &mut [f32],
    task: impl Fn(TileMut<'_>, &mut [f32]) + Sync,
) {
    let [tile_rows, tile_columns] = tile;
    assert!(tile_rows > 0 && tile_columns > 0, "a tile holds at least one element");
    assert!(stride > 0 && out.len().is_multiple_of(stride), "a matrix has whole rows");
    assert!(columns.start <= columns.end && columns.end <= stride, "a row has these columns");
    let rows = out.len() / stride;
    let across = columns.len().div_ceil(tile_columns);
    let out = Shared::new(out);
    let scratch = Shares::new(executor, scratch);
    executor.run(rows.div_ceil(tile_rows) * across, &|index, worker| {
        let row = index / across * tile_rows;
        let column = columns.start + index % across * tile_columns;
        assert!(row < rows, "the executor made up an index");
        let place = TilePlace {
            row,
            rows: tile_rows.min(rows - row),
            column,
            columns: tile_columns.min(columns.end - column),
        };
        let tile =
            TileMut { first: out.at(row * stride + column), stride, place, matrix: PhantomData };
        // SAFETY: the executor never runs two tasks at a time as the same worker.
        task(tile, unsafe { scratch.of(worker) });
    });
}

/// A slice whose disjoint parts go to different threads.
struct Shared<'a, T> {
    first: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it is only used to hand out disjoint parts, each to one thread, of elements that may be
// sent.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self { first: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    fn at(&self, index: usize) -> *mut T {
        assert!(index < self.len, "a tile begins inside its matrix");
        // SAFETY: inside the slice, as just checked.
        unsafe { self.first.add(index) }
    }

    /// # Safety
    /// Ranges that are alive at the same time must not overlap.
    #[allow(clippy::mut_from_ref, reason = "the caller guarantees that ranges are disjoint")]
    unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part lies inside its whole");
        // SAFETY: inside the slice, as just checked; disjoint from others, as the caller
        // guarantees.
        unsafe { core::slice::from_raw_parts_mut(self.first.add(start), len) }
    }
}

/// Scratch memory, an equal share for each worker.
struct Shares<'a, T> {
    all: Shared<'a, T>,
    each: usize,
    workers: usize,
}

impl<'a, T> Shares<'a, T> {
    fn new(executor: &dyn Executor, scratch: &'a mut [T]) -> Self {
        let workers = executor.workers();
        Self { each: scratch.len() / workers, all: Shared::new(scratch), workers }
    }

    /// # Safety
    /// One worker's share may be asked for again only when the former slice is dead.
    #[allow(clippy::mut_from_ref, reason = "the caller guarantees one use at a time")]
    unsafe fn of(&self, worker: usize) -> &mut [T] {
        assert!(worker < self.workers, "the executor made up a worker");
        // SAFETY: shares of different workers are disjoint; the caller guarantees the rest.
        unsafe { self.all.range(worker * self.each, self.each) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many threads as it says, each with every n-th index.
    struct Threads(usize);

    // SAFETY: index i goes to worker i % workers alone; `scope` joins all before it returns.
    unsafe impl Executor for Threads {
        fn workers(&self) -> usize {
            self.0
        }

        fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
            std::thread::scope(|scope| {
                for worker in 0..self.0 {
                    scope.spawn(move || {
                        (worker..count).step_by(self.0).for_each(|index| task(index, worker));
                    });
                }
            });
        }
    }

    #[test]
    fn threads_write_their_own_chunks_tiles_and_scratch() {
        let mut out = [0usize; 23];
        let mut scratch = [0u8; 9];
        for_each_chunk(&Threads(3), &mut out, 2, &mut scratch, |index, part, scratch| {
            assert_eq!(scratch.len(), 3);
            scratch.iter_mut().for_each(|s| *s += 1);
            part.fill(index);
        });
        assert!(out.iter().enumerate().all(|(i, &index)| index == i / 2));
        assert_eq!(scratch, [4; 9]);
        let mut matrix = [0.0; 6 * 5];
        for_each_tile(&Threads(3), &mut matrix, 5, 1..5, [2, 3], &mut [], |mut tile, _| {
            let place = tile.place();
            for row in 0..place.rows {
                tile.row(row).fill((place.row + row) as f32);
            }
        });
        for (row, values) in matrix.chunks_exact(5).enumerate() {
            assert_eq!(values, [0.0, row as f32, row as f32, row as f32, row as f32]);
        }
    }

    #[test]
    fn chunks_cover_the_output_once_with_a_short_last_one() {
        let mut out = [0u32; 10];
        for_each_chunk::<_, ()>(&Sequential, &mut out, 4, &mut [], |index, part, _| {
            assert_eq!(part.len(), if index == 2 { 2 } else { 4 });
            part.iter_mut().for_each(|x| *x += 1 + index as u32);
        });
        assert_eq!(out, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
    }

    #[test]
    fn tiles_cover_the_matrix_once_with_smaller_ones_at_the_edges() {
        let mut out = [0.0; 5 * 7];
        for_each_tile(
            &Sequential,
            &mut out,
            7,
            0..7,
            [2, 3],
            &mut [0.0; 8],
            |mut tile, scratch| {
                assert_eq!(scratch.len(), 8);
                for i in 0..tile.place().rows {
                    tile.row(i).iter_mut().for_each(|x| *x += 1.0);
                }
            },
        );
        assert_eq!(out, [1.0; 35]);
    }

    #[test]
    fn all_workers_get_as_many_rows_where_there_are_many() {
        let share = |count, most| even_share(&Threads(2), count, most);
        assert_eq!([share(0, 5), share(4, 5), share(6, 5), share(11, 5)], [1, 4, 3, 3]);
        assert_eq!([share(64, 21), share(5, 0), share(20, 5)], [16, 1, 5]);
    }

    #[test]
    fn columns_outside_the_range_are_left_alone() {
        let mut out = [0.0; 2 * 5];
        for_each_tile(&Sequential, &mut out, 5, 1..4, [1, 2], &mut [], |mut tile, _| {
            tile.row(0).fill(1.0);
        });
        assert_eq!(out, [0., 1., 1., 1., 0., 0., 1., 1., 1., 0.]);
    }

    #[test]
    fn an_empty_output_is_no_work() {
        for_each_chunk::<u8, ()>(&Sequential, &mut [], 4, &mut [], |_, _, _| unreachable!());
        for_each_tile(&Sequential, &mut [], 3, 0..3, [1, 1], &mut [], |_, _| unreachable!());
    }
}
