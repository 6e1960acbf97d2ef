//! The fields of a configuration, walked once: what a packed file's numbers and a host's JSON are
//! both read by, so that neither can know a field that the other does not.

/// What reads, or writes down, one field after the other. A value that is handed over holds its
/// default, or what is to be written.
pub trait Fields {
    /// What may go wrong.
    type Error;

    /// A count or a width.
    ///
    /// # Errors
    /// Where it cannot be read, or written: so for the other methods.
    fn size(&mut self, key: &'static str, value: &mut usize) -> Result<(), Self::Error>;

    /// True or false.
    ///
    /// # Errors
    /// See [`Fields::size`].
    fn flag(&mut self, key: &'static str, value: &mut bool) -> Result<(), Self::Error>;

    /// A number.
    ///
    /// # Errors
    /// See [`Fields::size`].
    fn number(&mut self, key: &'static str, value: &mut f64) -> Result<(), Self::Error>;

    /// One of several, by its words. Where a value has several words, the first is its own. In
    /// numbers a value is told by its place among the different ones: append, never insert.
    ///
    /// # Errors
    /// See [`Fields::size`].
    fn word<T: Copy + PartialEq>(
        &mut self,
        key: &'static str,
        value: &mut T,
        known: &[(&'static str, T)],
    ) -> Result<(), Self::Error>;

    /// A key that is no field, as mote knows one value of it only, which is also the default.
    ///
    /// # Errors
    /// Where it holds another.
    fn only(&mut self, key: &'static str, supported: Only) -> Result<(), Self::Error>;
}

/// The one value of a key that mote supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Nothing.
    Null,
    /// True or false.
    Flag(bool),
    /// A word.
    Word(&'static str),
}
