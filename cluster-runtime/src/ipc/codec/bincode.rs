//! The codec of the feature `bincode`, in serde's mode.
//!
//! Integers have fixed width on the wire. With variable width bincode counts a one-byte `u64` as eight against its
//! limit, so that a sound message of 3 MB could fail to decode under a limit of 16 MiB; with fixed width what it counts
//! is what is there. The limit itself is not optional: without one an 11-byte message aborts the process.

use bincode::config::{Configuration, Fixint, LittleEndian};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeSeed;

use super::{BINCODE, Sink};

pub(super) const NAME: &str = "bincode-2/fixed-width";
pub(super) const MARK: u8 = BINCODE;

const CONFIG: Configuration<LittleEndian, Fixint> = bincode::config::standard().with_fixed_int_encoding();

#[inline]
pub(super) fn write<T: Serialize>(value: T, sink: &mut impl Sink) -> Result<(), String> {
    bincode::serde::encode_into_writer(value, To(sink), CONFIG).map_err(unwritten)
}

/// The value, and how many bytes are behind it.
#[inline]
pub(super) fn read<'de, const LIMIT: usize, S: DeserializeSeed<'de>>(
    seed: S,
    bytes: &'de [u8],
) -> Result<(S::Value, usize), String> {
    match bincode::serde::seed_decode_from_slice(seed, bytes, CONFIG.with_limit::<LIMIT>()) {
        Ok((value, used)) => Ok((value, bytes.len() - used)),
        Err(error) => Err(unread(error)),
    }
}

#[cold]
fn unwritten(error: EncodeError) -> String {
    match error {
        EncodeError::OtherString(text) => text,
        error => error.to_string(),
    }
}

#[cold]
fn unread(error: DecodeError) -> String {
    match error {
        DecodeError::OtherString(text) => text,
        error => error.to_string(),
    }
}

struct To<'a, S>(&'a mut S);

impl<S: Sink> Writer for To<'_, S> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.put(bytes);
        Ok(())
    }
}
