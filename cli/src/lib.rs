//! The command line of mote.
