//! Bounds on the shape of values, as a layer between the types of a message and the codec.
//!
//! The codec bounds bytes. That leaves open how deep values are nested: every level takes stack, and a stack that
//! overflows takes the process with it. It leaves open how many elements there are that take no bytes: a `Vec<()>`
//! of any length fits into eight. And it leaves open how much memory they take: an enum is as large as its largest variant,
//! and its smallest one is a byte on the wire.
//!
//! A level is a struct, a tuple, an enum, an `Option`, a sequence or a map. Encoding and decoding count levels and elements alike,
//! so of these what the sender may send the receiver takes. Only what a codec calls that describes nothing is bounded; to answer
//! `deserialize_any` is not foreseen.
//!
//! Memory is counted where a value is decoded, as only the types that are made say how large they are. A sequence or map is charged
//! as a whole with its first element, before there is room for more of them than serde makes unasked (1 MiB). What is in a box is
//! found by its size: it does not fit into the place that it is decoded for. Text and bytes are as large as on the wire, and not
//! counted. Nor is what a collection keeps in reserve, or an allocator beside each piece.

use std::cell::Cell;
use std::fmt::{self, Display};
use std::mem::size_of;

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};

use super::frame::WINDOW;

/// How many levels a value may have.
const LEVELS: u8 = 128;

/// How many elements all sequences and maps together may have in a value of this many bytes: one for each byte, and
/// some that take none.
pub(super) fn elements_in(bytes: usize) -> usize {
    bytes + 4096
}

pub(super) const TOO_DEEP: &str = "values are nested deeper than 128 levels";
pub(super) const TOO_MANY: &str = "more elements than the bytes can hold";
const TOO_LARGE: &str = "more memory than the bytes allow";

/// How many times its size on the wire a value may take in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expansion(u32);

impl Expansion {
    pub(crate) const DEFAULT: Self = Self(16);
    /// For what this program has written itself.
    pub(super) const UNBOUNDED: Self = Self(u32::MAX);

    pub(crate) const fn new(times: u32) -> Self {
        Self(times)
    }

    const fn of(self, bytes: usize) -> usize {
        bytes.saturating_mul(self.0 as usize)
    }
}

/// What any value may take in memory. As much as the messages that wait in a lane, so that it changes no bound.
pub(super) const ALWAYS_ALLOWED: usize = WINDOW;

/// A part of serde's machinery, and what may still be inside the value at which it works. `SIZED_BY_PEER`: a visitor of
/// something that has as many elements as the bytes say, not the type.
pub(super) struct Bounded<'a, T, const SIZED_BY_PEER: bool = false> {
    inner: T,
    left: Left<'a>,
}

#[derive(Clone, Copy)]
struct Left<'a> {
    levels: u8,
    /// How large the place is in which the next value comes to be. It is paid for.
    place: u32,
    /// Of the whole value.
    budget: &'a Budget,
}

/// What a whole value may still take, and why it was refused if it was: not every codec's errors carry a text.
pub(super) struct Budget {
    elements: Cell<usize>,
    /// How much memory was taken.
    memory: Cell<usize>,
    /// On the wire.
    bytes: usize,
    expansion: Expansion,
    refusal: Cell<Option<&'static str>>,
}

impl Budget {
    /// For a value that is encoded.
    #[inline]
    pub(super) fn to_encode() -> Self {
        Self::new(usize::MAX, 0, Expansion::UNBOUNDED)
    }

    /// For a value that is decoded from so many bytes.
    #[inline]
    pub(super) fn to_decode(bytes: usize, expansion: Expansion) -> Self {
        Self::new(elements_in(bytes), bytes, expansion)
    }

    #[inline]
    fn new(elements: usize, bytes: usize, expansion: Expansion) -> Self {
        Self { elements: Cell::new(elements), memory: Cell::new(0), bytes, expansion, refusal: Cell::new(None) }
    }

    /// How many elements a value had that was encoded.
    #[inline]
    pub(super) fn encoded_elements(&self) -> usize {
        usize::MAX - self.elements.get()
    }

    /// Why it was refused: the codec's own words, unless it was refused here.
    #[cold]
    pub(super) fn explain(&self, codec: String) -> String {
        match self.refusal.get() {
            Some(TOO_LARGE) => {
                let Self { bytes, expansion: Expansion(times), .. } = self;
                format!(
                    "it takes more memory than {times} times its {bytes} bytes; send less at once, box what is large and rare in \
                     its types, or raise max_expansion (CLUSTER_MAX_EXPANSION) where it is received"
                )
            }
            Some(refusal) => refusal.to_owned(),
            None => codec,
        }
    }

    #[inline]
    fn charge<E>(&self, memory: usize, error: impl FnOnce(&'static str) -> E) -> Result<(), E> {
        let memory = self.memory.get().saturating_add(memory);
        self.memory.set(memory);
        if memory > ALWAYS_ALLOWED && memory > self.expansion.of(self.bytes) {
            return Err(self.refuse(TOO_LARGE, error));
        }
        Ok(())
    }

    #[cold]
    fn refuse<E>(&self, why: &'static str, error: impl FnOnce(&'static str) -> E) -> E {
        self.refusal.set(Some(why));
        error(why)
    }
}

impl<'a, T> Bounded<'a, T> {
    /// For a whole value; the place for it is there.
    #[inline]
    pub(super) fn new(inner: T, budget: &'a Budget) -> Self {
        Self { inner, left: Left { levels: LEVELS, place: u32::MAX, budget } }
    }
}

impl<'a> Left<'a> {
    #[inline]
    fn wrap<T>(self, inner: T) -> Bounded<'a, T> {
        Bounded { inner, left: self }
    }

    #[inline]
    fn deeper<E>(self, error: impl FnOnce(&'static str) -> E) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, ..self }),
            None => Err(self.budget.refuse(TOO_DEEP, error)),
        }
    }

    /// For a value of this type, which comes to be in the place, or in a box for which there is only a pointer.
    #[inline]
    fn within<T, E>(self, error: impl FnOnce(&'static str) -> E) -> Result<Self, E> {
        let size = size_of::<T>();
        if size > self.place as usize {
            self.budget.charge(size, error)?;
        }
        Ok(self.in_place_of::<T>())
    }

    /// The same for a collection or a text, which may be made into a slice in a box: that is a word smaller.
    #[inline]
    fn within_about<T, E>(self, error: impl FnOnce(&'static str) -> E) -> Result<Self, E> {
        if size_of::<T>() <= self.place as usize + size_of::<usize>() {
            return Ok(self.in_place_of::<T>());
        }
        self.within::<T, E>(error)
    }

    #[inline]
    fn in_place_of<T>(self) -> Self {
        Self { place: u32::try_from(size_of::<T>()).unwrap_or(u32::MAX), ..self }
    }

    /// The codec knows every length; if one did not, it would be refused.
    #[inline]
    fn take<E>(self, elements: Option<usize>, error: impl FnOnce(&'static str) -> E) -> Result<(), E> {
        match elements.and_then(|elements| self.budget.elements.get().checked_sub(elements)) {
            Some(left) => self.budget.elements.set(left),
            None => return Err(self.budget.refuse(TOO_MANY, error)),
        }
        Ok(())
    }
}

// ---- decoding ----

macro_rules! pass_on {
    ($($method:ident($($name:ident: $type:ty)?);)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)? visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)? visitor)
        })*
    };
}

macro_rules! pass_on_text {
    ($($method:ident();)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.left.within_about::<V::Value, _>(de::Error::custom)?;
            self.inner.$method(visitor)
        })*
    };
}

macro_rules! go_down {
    ($($method:ident($($name:ident: $type:ty),*) $within:ident sized_by_peer $sized_by_peer:literal;)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let left = self.left.deeper(de::Error::custom)?.$within::<V::Value, _>(de::Error::custom)?;
            self.inner.$method($($name,)* Bounded::<V, $sized_by_peer> { inner: visitor, left })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Bounded<'_, D> {
    type Error = D::Error;

    pass_on! {
        deserialize_any();
        deserialize_ignored_any();
        deserialize_identifier();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
    }

    pass_on_text! {
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
    }

    go_down! {
        deserialize_option() within sized_by_peer false;
        deserialize_newtype_struct(name: &'static str) within sized_by_peer false;
        deserialize_tuple(length: usize) within sized_by_peer false;
        deserialize_tuple_struct(name: &'static str, length: usize) within sized_by_peer false;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) within sized_by_peer false;
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) within sized_by_peer false;
        deserialize_seq() within_about sized_by_peer true;
        deserialize_map() within_about sized_by_peer true;
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

impl<'de, V: Visitor<'de>, const SIZED_BY_PEER: bool> Visitor<'de> for Bounded<'_, V, SIZED_BY_PEER> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    #[inline]
    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(self.left.wrap(value))
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(self.left.wrap(value))
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        if SIZED_BY_PEER {
            self.left.take(access.size_hint(), de::Error::custom)?;
            return self.inner.visit_seq(Elements::new(access, self.left));
        }
        self.inner.visit_seq(self.left.wrap(access))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.left.take(access.size_hint(), de::Error::custom)?;
        self.inner.visit_map(Elements::new(access, self.left))
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(self.left.wrap(access))
    }
}

/// The fields of a type, which are in its place.
impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let left = self.left.within::<S::Value, _>(de::Error::custom)?;
        self.inner.next_element_seed(left.wrap(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The elements of a sequence or a map.
struct Elements<'a, A> {
    inner: A,
    left: Left<'a>,
    /// How large an element or a key is, and a value, as far as all of them are paid for.
    element: usize,
    value: usize,
}

impl<'a, A> Elements<'a, A> {
    #[inline]
    fn new(inner: A, left: Left<'a>) -> Self {
        Self { inner, left, element: 0, value: 0 }
    }
}

/// Pays for so many more elements or values of this type, unless it was done with the one before; returns what may be in each.
#[inline]
fn pay<'a, T, E: de::Error>(left: Left<'a>, paid: &mut usize, more: impl FnOnce() -> usize) -> Result<Left<'a>, E> {
    let size = size_of::<T>();
    if size > *paid {
        left.budget.charge((size - *paid).saturating_mul(more()), E::custom)?;
        *paid = size;
    }
    Ok(left.in_place_of::<T>())
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let Self { inner, left, element, .. } = self;
        let left = pay::<S::Value, A::Error>(*left, element, || inner.size_hint().unwrap_or(1))?;
        inner.next_element_seed(left.wrap(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let Self { inner, left, element, .. } = self;
        let left = pay::<S::Value, A::Error>(*left, element, || inner.size_hint().unwrap_or(1))?;
        inner.next_key_seed(left.wrap(seed))
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let Self { inner, left, value, .. } = self;
        // The one of the key that was just read does not count any more among those to come.
        let left =
            pay::<S::Value, A::Error>(*left, value, || inner.size_hint().map_or(1, |more| more.saturating_add(1)))?;
        inner.next_value_seed(left.wrap(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Bounded<'a, A> {
    type Error = A::Error;
    type Variant = Bounded<'a, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(seed)?;
        Ok((value, self.left.wrap(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let left = self.left.within::<S::Value, _>(de::Error::custom)?;
        self.inner.newtype_variant_seed(left.wrap(seed))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(length, self.left.wrap(visitor))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, self.left.wrap(visitor))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Bounded<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(self.left.wrap(deserializer))
    }
}

// ---- encoding ----

impl<T: Serialize + ?Sized> Serialize for Bounded<'_, &T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(self.left.wrap(serializer))
    }
}

macro_rules! forward {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {
        $(#[inline]
        fn $method(self, $($name: $type),*) -> Result<S::Ok, S::Error> {
            self.inner.$method($($name),*)
        })*
    };
}

macro_rules! wrap_value {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {
        $(#[inline]
        fn $method<T: Serialize + ?Sized>(self, $($name: $type,)* value: &T) -> Result<S::Ok, S::Error> {
            let left = self.left.deeper(ser::Error::custom)?;
            self.inner.$method($($name,)* &left.wrap(value))
        })*
    };
}

macro_rules! wrap_compound {
    ($($method:ident($($name:ident: $type:ty),*) -> $compound:ident;)*) => {
        $(#[inline]
        fn $method(self, $($name: $type),*) -> Result<Self::$compound, S::Error> {
            let left = self.left.deeper(ser::Error::custom)?;
            Ok(left.wrap(self.inner.$method($($name),*)?))
        })*
    };
}

impl<'a, S: Serializer> Serializer for Bounded<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Bounded<'a, S::SerializeSeq>;
    type SerializeTuple = Bounded<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Bounded<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Bounded<'a, S::SerializeTupleVariant>;
    type SerializeMap = Bounded<'a, S::SerializeMap>;
    type SerializeStruct = Bounded<'a, S::SerializeStruct>;
    type SerializeStructVariant = Bounded<'a, S::SerializeStructVariant>;

    forward! {
        serialize_bool(v: bool);
        serialize_i8(v: i8);
        serialize_i16(v: i16);
        serialize_i32(v: i32);
        serialize_i64(v: i64);
        serialize_i128(v: i128);
        serialize_u8(v: u8);
        serialize_u16(v: u16);
        serialize_u32(v: u32);
        serialize_u64(v: u64);
        serialize_u128(v: u128);
        serialize_f32(v: f32);
        serialize_f64(v: f64);
        serialize_char(v: char);
        serialize_str(v: &str);
        serialize_bytes(v: &[u8]);
        serialize_unit();
        serialize_unit_struct(name: &'static str);
    }

    wrap_value! {
        serialize_some();
        serialize_newtype_struct(name: &'static str);
        serialize_newtype_variant(name: &'static str, index: u32, variant: &'static str);
    }

    wrap_compound! {
        serialize_tuple(length: usize) -> SerializeTuple;
        serialize_tuple_struct(name: &'static str, length: usize) -> SerializeTupleStruct;
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, length: usize)
            -> SerializeTupleVariant;
        serialize_struct(name: &'static str, length: usize) -> SerializeStruct;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, length: usize)
            -> SerializeStructVariant;
    }

    // The receiver cannot know yet that these two hold nothing, so they are a level.

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.left.deeper(ser::Error::custom)?;
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.left.deeper(ser::Error::custom)?;
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let left = self.left.deeper(ser::Error::custom)?;
        left.take(length, ser::Error::custom)?;
        Ok(left.wrap(self.inner.serialize_seq(length)?))
    }

    #[inline]
    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let left = self.left.deeper(ser::Error::custom)?;
        left.take(length, ser::Error::custom)?;
        Ok(left.wrap(self.inner.serialize_map(length)?))
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! compounds {
    ($($compound:ident: $($method:ident($($key:ident)?)),+;)*) => {
        $(impl<S: ser::$compound> ser::$compound for Bounded<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            $(#[inline]
            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($key: &'static str,)?
                value: &T,
            ) -> Result<(), S::Error> {
                self.inner.$method($($key,)? &self.left.wrap(value))
            })+

            #[inline]
            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        })*
    };
}

compounds! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key(), serialize_value();
    SerializeStruct: serialize_field(key);
    SerializeStructVariant: serialize_field(key);
}
