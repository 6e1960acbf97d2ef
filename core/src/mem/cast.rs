//! Slices seen as other types.

/// The bytes of a slice of f32.
pub fn bytes_of(values: &[f32]) -> &[u8] {
    let (data, len) = (values.as_ptr().cast::<u8>(), size_of_val(values));
    // SAFETY: the same memory, borrowed as long; a byte has no alignment.
    unsafe { core::slice::from_raw_parts(data, len) }
}

/// The bytes of a slice of f32, to be written.
pub fn bytes_of_mut(values: &mut [f32]) -> &mut [u8] {
    let (data, len) = (values.as_mut_ptr().cast::<u8>(), size_of_val(values));
    // SAFETY: the same memory, borrowed as long; a byte has no alignment, and any bytes are an f32.
    unsafe { core::slice::from_raw_parts_mut(data, len) }
}

/// Bytes that hold f32.
///
/// # Panics
/// Where they do not begin at a multiple of four, or end inside an element.
pub fn floats_of(bytes: &[u8]) -> &[f32] {
    let data = bytes.as_ptr().cast::<f32>();
    assert!(data.is_aligned() && bytes.len().is_multiple_of(4), "these bytes hold no f32");
    // SAFETY: the same memory, borrowed as long; aligned, as just checked; any bytes are an f32.
    unsafe { core::slice::from_raw_parts(data, bytes.len() / 4) }
}

/// Bytes that hold f32, to be written.
///
/// # Panics
/// As [`floats_of`].
pub fn floats_of_mut(bytes: &mut [u8]) -> &mut [f32] {
    let data = bytes.as_mut_ptr().cast::<f32>();
    assert!(data.is_aligned() && bytes.len().is_multiple_of(4), "these bytes hold no f32");
    // SAFETY: as in `floats_of`, borrowed exclusively.
    unsafe { core::slice::from_raw_parts_mut(data, bytes.len() / 4) }
}
