//! Bounds on the shape of values, as a layer between the types of a message and the codec.
//!
//! The codec bounds bytes. That leaves open how deep values are nested: every level takes stack, and a stack that
//! overflows takes the process with it. And it leaves open how many elements there are that take no bytes: a `Vec<()>`
//! of any length fits into eight.
//!
//! A level is a struct, a tuple, an enum, an `Option`, a sequence or a map. Encoding and decoding count alike, so what
//! the sender may send the receiver takes. Only what a codec calls that describes nothing is bounded; to answer
//! `deserialize_any` is not foreseen.

use std::cell::Cell;
use std::fmt::{self, Display};

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};

/// How many levels a value may have.
const LEVELS: u8 = 128;

/// How many elements all sequences and maps together may have in a value of this many bytes: one for each byte, and
/// some that take none.
pub(super) fn elements_in(bytes: usize) -> usize {
    bytes + 4096
}

pub(super) const TOO_DEEP: &str = "values are nested deeper than 128 levels";
pub(super) const TOO_MANY: &str = "more elements than the bytes can hold";

/// A part of serde's machinery, and what may still be inside the value at which it works. `SIZED_BY_PEER`: a visitor of
/// something that has as many elements as the bytes say, not the type.
pub(super) struct Bounded<'a, T, const SIZED_BY_PEER: bool = false> {
    inner: T,
    left: Left<'a>,
}

#[derive(Clone, Copy)]
struct Left<'a> {
    levels: u8,
    /// Of the whole value.
    budget: &'a Budget,
}

/// What a whole value may still take, and why it was refused if it was: not every codec's errors carry a text.
pub(super) struct Budget {
    elements: Cell<usize>,
    refusal: Cell<Option<&'static str>>,
}

impl Budget {
    #[inline]
    pub(super) fn new(elements: usize) -> Self {
        Self { elements: Cell::new(elements), refusal: Cell::new(None) }
    }

    /// How many elements were taken of those that there were.
    #[inline]
    pub(super) fn spent(&self, of: usize) -> usize {
        of - self.elements.get()
    }

    /// Why it was refused: the codec's own words, unless it was refused here.
    #[cold]
    pub(super) fn explain(&self, codec: String) -> String {
        self.refusal.get().map_or(codec, str::to_owned)
    }

    #[cold]
    fn refuse<E>(&self, why: &'static str, error: impl FnOnce(&'static str) -> E) -> E {
        self.refusal.set(Some(why));
        error(why)
    }
}

impl<'a, T> Bounded<'a, T> {
    /// For a whole value.
    #[inline]
    pub(super) fn new(inner: T, budget: &'a Budget) -> Self {
        Self { inner, left: Left { levels: LEVELS, budget } }
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

macro_rules! go_down {
    ($($method:ident($($name:ident: $type:ty),*) sized_by_peer $sized_by_peer:literal;)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let left = self.left.deeper(de::Error::custom)?;
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
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
    }

    go_down! {
        deserialize_option() sized_by_peer false;
        deserialize_newtype_struct(name: &'static str) sized_by_peer false;
        deserialize_tuple(length: usize) sized_by_peer false;
        deserialize_tuple_struct(name: &'static str, length: usize) sized_by_peer false;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) sized_by_peer false;
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) sized_by_peer false;
        deserialize_seq() sized_by_peer true;
        deserialize_map() sized_by_peer true;
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
        }
        self.inner.visit_seq(self.left.wrap(access))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.left.take(access.size_hint(), de::Error::custom)?;
        self.inner.visit_map(self.left.wrap(access))
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(self.left.wrap(access))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(self.left.wrap(seed))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Bounded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(self.left.wrap(seed))
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(self.left.wrap(seed))
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
        self.inner.newtype_variant_seed(self.left.wrap(seed))
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
