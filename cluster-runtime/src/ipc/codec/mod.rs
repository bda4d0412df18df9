//! Values ↔ payload bytes.
//!
//! Which codec does it is a feature's choice: [`bincode`] or [`postcard`], each the only place that names it. Both describe
//! nothing and go by position. They bound the bytes that are read, and [`depth`] bounds the rest.
//!
//! With both features on it is bincode: features add up over a whole tree of dependencies, so one that somebody turns on
//! must not change the bytes of others. Whoever wants bincode gone turns it off, and then it is gone.

#[cfg(feature = "bincode")]
mod bincode;
#[cfg(all(feature = "postcard", not(feature = "bincode")))]
mod postcard;

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "bincode")]
use self::bincode as wire;
#[cfg(all(feature = "postcard", not(feature = "bincode")))]
use self::postcard as wire;
use super::depth::{self, Bounded, Budget, Expansion};
use crate::os::MOST_STATE;

#[cfg(not(any(feature = "bincode", feature = "postcard")))]
compile_error!("cluster needs a codec for its messages: turn on its feature `bincode` (a default one) or `postcard`");

/// Part of every fingerprint: two builds with another codec must not talk to each other.
pub(super) const NAME: &str = wire::NAME;

/// The codec in one bit of a byte, for the places where two builds meet before they can decode anything of each other.
pub(crate) const MARK: u8 = wire::MARK;

/// All bits of marks.
pub(crate) const MARKS: u8 = BINCODE | POSTCARD;

const BINCODE: u8 = 0;
const POSTCARD: u8 = 0x80;

/// The feature that makes this mark.
pub(crate) fn feature(mark: u8) -> &'static str {
    if mark & MARKS == POSTCARD { "postcard" } else { "bincode" }
}

/// Where the bytes of a value go, piece by piece.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    /// How many bytes it has.
    fn len(&self) -> usize;
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn len(&self) -> usize {
        self.len()
    }
}

/// Encodes a value behind what is in the sink; the error is for people. Refuses what `decode` would, but for its size, which is for
/// the sink to bound.
#[inline(always)]
pub(crate) fn encode<T: Serialize>(value: &T, sink: &mut impl Sink) -> Result<(), String> {
    let before = sink.len();
    let budget = Budget::to_encode();
    match wire::write(Bounded::new(value, &budget), sink) {
        Ok(()) if budget.encoded_elements() <= depth::elements_in(sink.len() - before) => Ok(()),
        Ok(()) => Err(depth::TOO_MANY.to_owned()),
        Err(text) => Err(budget.explain(text)),
    }
}

/// Decodes a value that must fill `bytes` exactly, and takes no more memory than the default allows; the error is for people.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode_expanding(bytes, Expansion::DEFAULT)
}

/// Decodes a value that must fill `bytes` exactly; the error is for people.
#[inline(always)]
pub(crate) fn decode_expanding<T: DeserializeOwned>(bytes: &[u8], expansion: Expansion) -> Result<T, String> {
    if bytes.len() <= SMALL { decode_within::<SMALL, T>(bytes, expansion) } else { decode_large(bytes, expansion) }
}

/// How much a length inside the bytes is believed, at most: codecs make room for what it says before they look whether it is there.
/// So the bounds are steps, and no message makes this process ask for very much more than the message has itself.
const SMALL: usize = 64 << 10;
const MEDIUM: usize = 8 << 20;

#[inline(never)]
fn decode_large<T: DeserializeOwned>(bytes: &[u8], expansion: Expansion) -> Result<T, String> {
    if bytes.len() <= MEDIUM {
        decode_within::<MEDIUM, T>(bytes, expansion)
    } else {
        decode_within::<MOST_STATE, T>(bytes, expansion)
    }
}

/// [`encode`] for what one program hands down to the next, which may be as large as [`MOST_STATE`].
pub(crate) fn encode_state<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    encode(value, &mut bytes)?;
    Ok(bytes)
}

/// [`decode`] for what [`encode_state`] has made, which may take any memory.
pub(crate) fn decode_state<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode_within::<MOST_STATE, T>(bytes, Expansion::UNBOUNDED)
}

#[inline(always)]
fn decode_within<const LIMIT: usize, T: DeserializeOwned>(bytes: &[u8], expansion: Expansion) -> Result<T, String> {
    if bytes.len() > LIMIT {
        return Err(too_large(bytes.len(), LIMIT));
    }
    let budget = Budget::to_decode(bytes.len(), expansion);
    match wire::read::<LIMIT, _>(Bounded::new(PhantomData, &budget), bytes) {
        Ok((value, 0)) => Ok(value),
        Ok((_, left)) => Err(left_over(left)),
        Err(text) => Err(budget.explain(text)),
    }
}

#[cold]
fn too_large(size: usize, limit: usize) -> String {
    format!("it takes {size} bytes and the limit is {limit}")
}

#[cold]
fn left_over(bytes: usize) -> String {
    format!("{bytes} bytes are left over")
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
        for limit in [SMALL, MEDIUM] {
            for count in [limit / 8 - 8, limit / 8 + 1] {
                let value = vec![0_u64; count];
                assert_eq!(decode::<Vec<u64>>(&encoded(&value)), Ok(value));
            }
        }
    }

    #[test]
    fn state_survives_the_round_trip() {
        let value = Bytes::from(vec![7; MEDIUM + 1]);
        assert_eq!(decode_state::<Bytes>(&encode_state(&value).unwrap()), Ok(value));
        assert!(decode_state::<Bytes>(&encoded(&u64::MAX)).is_err());
    }

    #[test]
    fn a_length_from_the_wire_is_not_believed() {
        let absurd = encoded(&(u64::MAX / 2));
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
        encode(value, &mut bytes).unwrap();
        bytes
    }
}
