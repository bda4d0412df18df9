//! How the fields of a message travel: what `#[derive(Message)]` names in `#[serde(with = "…")]` on the type that it makes.

use serde::{Deserialize, Serialize};

use crate::ipc::{ForwardedReply, Replies, Reply, ReplyTag};

/// Whatever serde can write and read. For what the compiler says if it cannot: the field is where it points then, once for each of the
/// two traits.
pub mod data {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// As serde does it.
    #[inline]
    pub fn serialize<T: Serialize + ?Sized, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    /// As serde does it.
    #[inline]
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}

/// Bytes in one piece. By itself serde goes through a `Vec<u8>` byte by byte.
pub mod bytes {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    /// A length, and then all of them.
    #[inline]
    pub fn serialize<T: AsRef<[u8]>, S: Serializer>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes.as_ref())
    }

    /// Asks for bytes that are there already, so that no room is made for a length that is only claimed.
    #[inline]
    pub fn deserialize<'de, T: From<Vec<u8>>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_bytes(Bytes(PhantomData))
    }

    struct Bytes<T>(PhantomData<T>);

    impl<T: From<Vec<u8>>> Visitor<'_> for Bytes<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        #[inline]
        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
            Ok(bytes.to_vec().into())
        }

        #[inline]
        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<T, E> {
            Ok(bytes.into())
        }
    }
}

/// The number in place of a reply. Asks for serde's traits by the names under which the compiler says how to derive them.
pub fn reply_tag<T>(reply: Reply<T>) -> Result<ReplyTag, ForwardedReply>
where
    T: Serialize + for<'de> Deserialize<'de> + Send + 'static,
{
    reply.into_tag()
}

/// The same for a stream of replies.
pub fn replies_tag<T>(replies: Replies<T>) -> Result<ReplyTag, ForwardedReply>
where
    T: Serialize + for<'de> Deserialize<'de> + Send + 'static,
{
    replies.into_tag()
}

/// A call of this is where the compiler points if a field cannot leave its thread.
pub const fn must_be_send<T: Send>() {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::ipc::codec::{decode, encode};

    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    struct Plain(u8, Vec<u8>, Box<[u8]>, u8);

    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    struct InOnePiece(u8, #[serde(with = "super::bytes")] Vec<u8>, #[serde(with = "super::bytes")] Box<[u8]>, u8);

    fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(value, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        /// So it makes no difference to the fingerprint.
        #[test]
        fn bytes_in_one_piece_look_on_the_wire_as_they_do_one_by_one(a: Vec<u8>, b: Vec<u8>) {
            let whole = InOnePiece(1, a.clone(), b.clone().into(), 2);
            let wire = encoded(&whole);
            prop_assert_eq!(&wire, &encoded(&Plain(1, a, b.into(), 2)));
            prop_assert_eq!(decode::<InOnePiece>(&wire), Ok(whole));
        }

        #[test]
        fn no_prefix_of_it_is_taken_for_a_message(bytes: Vec<u8>, cut: prop::sample::Index) {
            let wire = encoded(&InOnePiece(1, bytes, Box::default(), 2));
            prop_assert!(decode::<InOnePiece>(&wire[..cut.index(wire.len())]).is_err());
        }
    }

    #[test]
    fn a_length_that_is_only_claimed_is_refused() {
        for length in [1, 1 << 20, 1 << 40, u64::MAX / 2, u64::MAX] {
            let mut wire = vec![1];
            wire.extend(length.to_le_bytes());
            assert!(decode::<InOnePiece>(&wire).is_err(), "{length}");
        }
    }
}
