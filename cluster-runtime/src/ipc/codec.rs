//! Values ↔ payload bytes. The only place that names bincode.
//!
//! Integers have fixed width on the wire. With variable width bincode counts a one-byte `u64` as eight against its
//! limit, so that a sound message of 3 MB could fail to decode under a limit of 16 MiB; with fixed width what it counts
//! is what is there. The limit itself is not optional: without one an 11-byte message aborts the process. It bounds
//! bytes only; [`depth`] bounds the rest.

use std::cell::Cell;
use std::marker::PhantomData;

use bincode::config::{Config, Configuration, Fixint, Limit, LittleEndian};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::depth::{self, Bounded};
use super::frame::MAX_FRAME;
use crate::os::MOST_STATE;

/// Part of every fingerprint: two builds with another codec must not talk to each other.
pub(super) const NAME: &str = "bincode-2/fixed-width";

const CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_FRAME>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_FRAME>();

/// For what is no message and may be larger.
const STATE_CONFIG: Configuration<LittleEndian, Fixint, Limit<MOST_STATE>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MOST_STATE>();

/// Encodes a value piece by piece into `put`; the error is for people. Refuses what `decode` would.
pub(crate) fn encode<T: Serialize>(value: &T, put: impl FnMut(&[u8])) -> Result<(), String> {
    encode_by(CONFIG, value, put)
}

/// Decodes a value that must fill `bytes` exactly; the error is for people.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode_by(CONFIG, bytes)
}

/// [`encode`] for what one program hands down to the next, which may be as large as [`MOST_STATE`].
pub(crate) fn encode_state<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    encode_by(STATE_CONFIG, value, |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// [`decode`] for what [`encode_state`] has made.
pub(crate) fn decode_state<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode_by(STATE_CONFIG, bytes)
}

fn encode_by<T: Serialize>(config: impl Config, value: &T, mut put: impl FnMut(&[u8])) -> Result<(), String> {
    let mut size = 0;
    let elements = Cell::new(usize::MAX);
    let sink = Sink(|bytes: &[u8]| {
        size += bytes.len();
        put(bytes);
    });
    match bincode::serde::encode_into_writer(Bounded::new(value, &elements), sink, config) {
        Ok(()) if usize::MAX - elements.get() <= depth::elements_in(size) => Ok(()),
        Ok(()) => Err(depth::TOO_MANY.to_owned()),
        Err(EncodeError::OtherString(text)) => Err(text),
        Err(error) => Err(error.to_string()),
    }
}

fn decode_by<T: DeserializeOwned>(config: impl Config, bytes: &[u8]) -> Result<T, String> {
    let elements = Cell::new(depth::elements_in(bytes.len()));
    match bincode::serde::seed_decode_from_slice(Bounded::new(PhantomData, &elements), bytes, config) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(format!("{} bytes are left over", bytes.len() - used)),
        Err(DecodeError::OtherString(text)) => Err(text),
        Err(error) => Err(error.to_string()),
    }
}

struct Sink<F>(F);

impl<F: FnMut(&[u8])> Writer for Sink<F> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        (self.0)(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_value_survives_the_round_trip() {
        let value = (7_u64, "text".to_owned(), vec![Some('ü'), None], -1_i128);
        assert_eq!(decode::<(u64, String, Vec<Option<char>>, i128)>(&encoded(&value)), Ok(value));
    }

    #[test]
    fn every_integer_counts_its_real_size_so_a_sound_message_never_hits_the_limit() {
        let value = vec![0_u64; MAX_FRAME / 8 - 8];
        assert_eq!(decode::<Vec<u64>>(&encoded(&value)), Ok(value));
    }

    #[test]
    fn state_may_be_larger_than_a_message() {
        let value = Bytes::from(vec![7; MAX_FRAME + 1]);
        let bytes = encode_state(&value).unwrap();
        assert!(decode::<Bytes>(&bytes).is_err());
        assert_eq!(decode_state::<Bytes>(&bytes), Ok(value));
        assert!(decode_state::<Bytes>(&u64::MAX.to_le_bytes()).is_err());
    }

    #[test]
    fn a_length_from_the_wire_is_not_believed() {
        let absurd = (u64::MAX / 2).to_le_bytes();
        assert!(decode::<String>(&absurd).is_err());
        assert!(decode::<Vec<u8>>(&absurd).is_err());
        assert!(decode::<Vec<u64>>(&absurd).is_err());
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        assert_eq!(decode::<u8>(&[1, 2, 3]), Err("2 bytes are left over".to_owned()));
    }

    fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(value, |piece| bytes.extend_from_slice(piece)).unwrap();
        bytes
    }
}
