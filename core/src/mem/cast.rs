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
