//! What makes a type a message, and the check that two processes mean the same by it.

use std::any::type_name;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::reply::{ForwardedReply, Origin};
use super::{codec, frame};

/// A type that can be sent between the primary and its workers. Derive it; do not implement it by hand.
///
/// Usually an enum: its variants are the protocol between two processes, and the compiler checks both ends. Every field
/// must be serde's `Serialize` and `Deserialize`, or a [`Reply<T>`](crate::Reply), which makes the variant a request, or a
/// [`Replies<T>`](crate::Replies), which makes it a request for a stream of answers.
/// The encoding is not self-describing: types that need that (`#[serde(untagged)]`, `#[serde(flatten)]`,
/// `serde_json::Value`) cannot be decoded at the other end.
///
/// Values may be nested 128 levels deep, where every struct, tuple, enum, `Option`, sequence and map inside another is a
/// level; and a message has no more elements in sequences and maps than it has bytes and 4096. What exceeds that is not
/// sent ([`SendError::Encode`](crate::SendError::Encode)), and ends the connection to a process that sends it all the
/// same. How much memory it may take where it is received is bounded by [`max_expansion`](crate::Config::max_expansion).
///
/// ```
/// #[derive(cluster::Message)]
/// enum ToPrimary {
///     Hit { path: String },
///     Total(cluster::Reply<u64>),
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "only a message can be sent between the primary and its workers",
    note = "add `#[derive(cluster::Message)]` to `{Self}`"
)]
pub trait Message: Sized + Send + 'static {
    /// What travels: the same type with every reply handle replaced by its tag.
    #[doc(hidden)]
    type Wire: Serialize + DeserializeOwned;

    /// The name of the type, for messages to people.
    #[doc(hidden)]
    const NAME: &'static str;

    /// Equal in two builds if they can read each other's messages.
    #[doc(hidden)]
    fn fingerprint() -> Fingerprint;

    /// Replaces every reply handle by its tag.
    #[doc(hidden)]
    fn into_wire(self) -> Result<Self::Wire, ForwardedReply>;

    /// Replaces every tag by a reply handle on the lane that the message came from.
    #[doc(hidden)]
    fn from_wire(wire: Self::Wire, origin: &Origin) -> Self;
}

/// The message type of a program that sends none: there is no value of it.
///
/// ```no_run
/// fn receive(message: cluster::NoMessages) {
///     match message {}
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoMessages {}

impl Message for NoMessages {
    type Wire = Self;

    const NAME: &'static str = "NoMessages";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("NoMessages")
    }

    fn into_wire(self) -> Result<Self, ForwardedReply> {
        match self {}
    }

    fn from_wire(wire: Self, _: &Origin) -> Self {
        match wire {}
    }
}

/// A hash of a message type's schema, of the codec, and of the frame protocol. Two processes whose fingerprints differ
/// must not exchange messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a schema that is given as text.
    #[must_use]
    pub const fn of(schema: &'static str) -> Self {
        Self(FNV_OFFSET).mix(codec::NAME).mix(frame::PROTOCOL).mix(schema)
    }

    /// Takes the name of a field's type into account, with its full path.
    #[must_use]
    pub fn with_type<T: ?Sized>(self) -> Self {
        self.mix(type_name::<T>())
    }

    /// FNV-1a over the text and an end mark, so that `"ab" "c"` and `"a" "bc"` differ. (No text holds the mark: 0xff is
    /// not a byte of UTF-8.)
    const fn mix(self, text: &str) -> Self {
        let mut hash = self.0;
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            hash = fnv_step(hash, bytes[at]);
            at += 1;
        }
        Self(fnv_step(hash, 0xff))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::LowerHex for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

const fn fnv_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_schemas_have_equal_fingerprints_and_different_ones_differ() {
        let a = Fingerprint::of("enum A { X(u8) }");
        assert_eq!(a, Fingerprint::of("enum A { X(u8) }"));
        assert_ne!(a, Fingerprint::of("enum A { X(u16) }"));
        assert_ne!(a, a.with_type::<u8>());
        assert_ne!(a.with_type::<u8>().with_type::<u16>(), a.with_type::<u16>().with_type::<u8>());
    }

    #[test]
    fn the_seam_between_two_texts_counts() {
        let start = Fingerprint(FNV_OFFSET);
        assert_ne!(start.mix("ab").mix("c"), start.mix("a").mix("bc"));
    }

    #[test]
    fn a_fingerprint_shows_as_sixteen_hex_digits() {
        assert_eq!(Fingerprint(0xab).to_string(), "00000000000000ab");
        assert_eq!(format!("{:x}", Fingerprint(0xab)), "ab");
    }
}
