//! The promises of the codec, for any value and any bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Deserializer;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};

use super::super::codec::{decode, decode_state, encode_state};
use super::*;

/// All that serde knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Anything {
    Nothing,
    Newtype(Wrapped),
    Tuple(bool, char, String),
    Struct { signed: Signed, unsigned: Unsigned },
    Floats(Floats),
    Unit((), Hollow),
    Bytes(Bytes),
    Option(Option<Option<u8>>),
    Result(Result<u16, String>),
    Array([i16; 3]),
    Numbers(Vec<u64>),
    Map(BTreeMap<String, Vec<u8>>),
    Hollows(Vec<Hollow>),
    Sequence(Vec<Self>),
    Table(BTreeMap<u8, Self>),
    Boxed(Box<Self>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wrapped(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hollow;

pub(super) type Signed = (i8, i16, i32, i64, i128, isize);
pub(super) type Unsigned = (u8, u16, u32, u64, u128, usize);

/// By their bits, so that every NaN is itself.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Floats(f32, f64);

impl Floats {
    fn bits(self) -> (u32, u64) {
        (self.0.to_bits(), self.1.to_bits())
    }
}

impl PartialEq for Floats {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for Floats {}

impl Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Floats{:x?}", self.bits())
    }
}

pub(super) fn anything() -> impl Strategy<Value = Anything> {
    let leaf = prop_oneof![
        Just(Anything::Nothing),
        Just(Anything::Unit((), Hollow)),
        any::<u64>().prop_map(|number| Anything::Newtype(Wrapped(number))),
        any::<(bool, char, String)>().prop_map(|(flag, letter, text)| Anything::Tuple(flag, letter, text)),
        any::<(Signed, Unsigned)>().prop_map(|(signed, unsigned)| Anything::Struct { signed, unsigned }),
        any::<(u32, u64)>()
            .prop_map(|(single, double)| Anything::Floats(Floats(f32::from_bits(single), f64::from_bits(double)))),
        vec(any::<u8>(), 0..300).prop_map(|bytes| Anything::Bytes(bytes.into())),
        any::<Option<Option<u8>>>().prop_map(Anything::Option),
        any::<Result<u16, String>>().prop_map(Anything::Result),
        any::<[i16; 3]>().prop_map(Anything::Array),
        vec(any::<u64>(), 0..50).prop_map(Anything::Numbers),
        btree_map(any::<String>(), vec(any::<u8>(), 0..20), 0..5).prop_map(Anything::Map),
        (0..500_usize).prop_map(|many| Anything::Hollows(vec![Hollow; many])),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Anything::Sequence),
            btree_map(any::<u8>(), inner.clone(), 0..6).prop_map(Anything::Table),
            inner.prop_map(|inner| Anything::Boxed(Box::new(inner))),
        ]
    })
}

/// Where, and which bits.
type Flip = (Index, u8);

/// Bytes of all kinds: some are those of a value, or nearly so.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let damaged = (anything(), vec(any::<Flip>(), 0..4)).prop_map(|(value, flips)| damaged(encoded(&value), &flips));
    prop_oneof![vec(any::<u8>(), 0..300), vec(0_u8..20, 0..300), damaged]
}

fn damaged(mut bytes: Vec<u8>, flips: &[Flip]) -> Vec<u8> {
    for (place, bits) in flips {
        let place = place.index(bytes.len());
        bytes[place] ^= bits;
    }
    bytes
}

proptest! {
    #[test]
    fn any_value_survives_the_round_trip_as_a_message_and_as_state(value in anything()) {
        prop_assert_eq!(decode(&encoded(&value)), Ok(value.clone()));
        prop_assert_eq!(decode_state(&encode_state(&value).unwrap()), Ok(value));
    }

    #[test]
    fn what_is_cut_short_is_refused_wherever_it_is_cut(value in anything(), at in any::<Index>()) {
        let bytes = encoded(&value);
        prop_assert!(decode::<Anything>(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn bytes_behind_a_value_are_refused(value in anything(), behind in vec(any::<u8>(), 1..20)) {
        let bytes = [encoded(&value), behind].concat();
        prop_assert!(decode::<Anything>(&bytes).is_err());
    }

    /// What they say is a value that can be sent, or an error; no panic, and nothing in between.
    #[test]
    fn any_bytes_are_a_value_that_can_be_sent_on_or_an_error(bytes in any_bytes()) {
        if let Ok(value) = decode::<Anything>(&bytes) {
            prop_assert_eq!(decode(&encoded(&value)), Ok(value));
        }
    }

    /// For the whole message, however often it begins anew: what is made, and what memory is asked for in advance.
    #[test]
    fn no_bytes_make_more_elements_than_there_are_bytes_and_a_few(bytes in any_bytes()) {
        let most = bytes.len() + 4096;
        for (made, announced) in [cost_of::<Counted>(&bytes), cost_of::<Sequence<Counted>>(&bytes)] {
            prop_assert!(made <= most && announced <= most, "{made} made, {announced} announced, of {most}");
        }
    }

    /// A text or a buffer of bytes is as long as its bytes, whatever its length says.
    #[test]
    fn what_is_made_of_any_bytes_takes_no_more_memory_than_they_allow(bytes in any_bytes()) {
        if let Ok(text) = decode::<String>(&bytes) {
            prop_assert!(text.capacity() <= bytes.len());
        }
        if let Ok(numbers) = decode::<Vec<u64>>(&bytes) {
            prop_assert!(numbers.capacity() <= 2 * bytes.len().max(4));
        }
    }

    /// Deep or shallow, many or few: whatever is refused on one end is on the other.
    #[test]
    fn what_may_be_sent_may_be_received(levels in 0..140_usize, hollows in prop_oneof![0..100_usize, 4050..4150_usize]) {
        let leaf = Anything::Hollows(vec![Hollow; hollows]);
        let value = (0..levels).fold(leaf, |inner, _| Anything::Boxed(Box::new(inner)));
        match try_encode(&value) {
            Ok(bytes) => prop_assert_eq!(decode(&bytes), Ok(value)),
            Err(refusal) => {
                let boxed = encoded(&15_u32).repeat(levels);
                let bytes = [boxed, encoded(&12_u32), encoded(&(hollows as u64))].concat();
                prop_assert_eq!(decode::<Anything>(&bytes), Err(refusal));
            }
        }
    }
}

thread_local! {
    static MADE: Cell<usize> = const { Cell::new(0) };
    static ANNOUNCED: Cell<usize> = const { Cell::new(0) };
}

/// How many elements a decoder makes of these bytes, and how many it announces, for a sequence of `T`.
fn cost_of<T: DeserializeOwned>(bytes: &[u8]) -> (usize, usize) {
    MADE.set(0);
    ANNOUNCED.set(0);
    _ = decode::<Sequence<T>>(bytes);
    (MADE.get(), ANNOUNCED.get())
}

/// Takes no bytes, so that only a bound on their number holds them back.
struct Counted;

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        MADE.set(MADE.get() + 1);
        <()>::deserialize(deserializer).map(|()| Self)
    }
}

/// A sequence that listens to what it is told of its length.
struct Sequence<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Sequence<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Sequence<T> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        ANNOUNCED.set(ANNOUNCED.get() + elements.size_hint().unwrap_or(0));
        while elements.next_element::<T>()?.is_some() {}
        Ok(self)
    }
}
