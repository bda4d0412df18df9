//! The codec of the feature `postcard`: integers of as many bytes as they need.
//!
//! It reads from a slice and believes no length that goes beyond it, so a limit is one on the slice. Its errors carry no
//! text: why a value refuses to be encoded or decoded is lost.

use postcard::Error;
use postcard::de_flavors::Flavor as Source;
use postcard::ser_flavors::Flavor as Target;
use serde::Serialize;
use serde::de::DeserializeSeed;

use super::{POSTCARD, Sink};

pub(super) const NAME: &str = "postcard-1";
pub(super) const MARK: u8 = POSTCARD;

#[inline]
pub(super) fn write<T: Serialize>(value: T, sink: &mut impl Sink) -> Result<(), String> {
    postcard::serialize_with_flavor(&value, To(sink)).map_err(told)
}

/// The value, and how many bytes are behind it.
#[inline]
pub(super) fn read<'de, const LIMIT: usize, S: DeserializeSeed<'de>>(
    seed: S,
    bytes: &'de [u8],
) -> Result<(S::Value, usize), String> {
    let mut deserializer = postcard::Deserializer::from_flavor(Rest(bytes));
    let value = seed.deserialize(&mut deserializer).map_err(told)?;
    deserializer.finalize().map(|rest| (value, rest.len())).map_err(told)
}

#[cold]
fn told(error: Error) -> String {
    match error {
        Error::SerdeSerCustom | Error::SerdeDeCustom => "it was refused, and postcard keeps no reasons".to_owned(),
        error => error.to_string(),
    }
}

struct To<'a, S>(&'a mut S);

impl<S: Sink> Target for To<'_, S> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put(bytes);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    #[inline]
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// What has not been read yet.
///
/// Unlike postcard's own it gives no hint of how much that is. With one, a sequence of more elements than there are bytes
/// would not tell its length, which is needed to bound it; and it may be sound, if its elements take no bytes.
struct Rest<'de>(&'de [u8]);

impl<'de> Source<'de> for Rest<'de> {
    type Remainder = &'de [u8];
    type Source = &'de [u8];

    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        let (first, rest) = self.0.split_first().ok_or(Error::DeserializeUnexpectedEnd)?;
        self.0 = rest;
        Ok(*first)
    }

    #[inline]
    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Error::DeserializeUnexpectedEnd)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn finalize(self) -> postcard::Result<&'de [u8]> {
        Ok(self.0)
    }
}
