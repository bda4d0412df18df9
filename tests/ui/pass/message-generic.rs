//! Messages with parameters: the bounds are the user's own.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

use std::marker::PhantomData;

use cluster::__private::serde::{Deserialize, Serialize, de::DeserializeOwned};
use cluster::{Message, Replies, Reply};

/// What a payload must be.
pub trait Payload: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Payload for T {}

#[derive(Message)]
enum Bounds<T: Serialize + DeserializeOwned + Send + 'static> {
    One(T),
    Many { all: Vec<T> },
    Ask(T, Reply<T>),
}

/// A where clause, a default and a constant.
#[derive(Message)]
pub struct Where<K, V = u8, const N: usize = 2>
where
    K: Payload + Ord,
    V: Payload,
{
    /// Pairs.
    pub pairs: std::collections::BTreeMap<K, [V; 1]>,
    /// How many.
    pub marker: PhantomData<[u8; N]>,
}

#[derive(Message)]
struct TupleWhere<T>(T, u8)
where
    T: Payload;

/// The parameter has no use but in the answer.
#[derive(Message)]
enum OnlyAsked<T: Payload, U: Payload> {
    Get(Reply<T>),
    Both { this: Reply<Vec<T>>, that: Reply<U> },
    All(Replies<(T, U)>),
}

#[derive(Message)]
struct Marked<T: Send + 'static>(PhantomData<T>);

#[derive(Message)]
#[serde(bound = "T: Serialize + for<'a> Deserialize<'a>")]
struct OwnBound<T: Payload>(T);

#[derive(Message)]
enum Outer {
    Inner(Box<Tree>),
}

#[derive(Serialize, Deserialize)]
#[serde(crate = "cluster::__private::serde")]
struct Tree {
    below: Vec<Self>,
}

const fn is_message<M: Message>() {}

fn main() {
    is_message::<Bounds<String>>();
    is_message::<Where<String>>();
    is_message::<TupleWhere<u8>>();
    is_message::<OnlyAsked<u8, String>>();
    is_message::<Marked<std::sync::mpsc::Sender<u8>>>();
    is_message::<OwnBound<u8>>();
    is_message::<Outer>();
}
