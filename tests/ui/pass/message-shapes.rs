//! Every kind of type and of field that can be a message.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

use std::collections::HashMap;
use std::marker::PhantomData;

use cluster::{Message, Replies, Reply};

/// All kinds of variants.
#[derive(Message)]
#[non_exhaustive]
pub enum Everything {
    /// No fields.
    Unit,
    /// No fields, with parentheses.
    EmptyTuple(),
    /// No fields, with braces.
    EmptyNamed {},
    /// Positions.
    Tuple(u8, Vec<Option<String>>, (i64, [u8; 4])),
    /// Names.
    Named {
        /// A keyword for a name.
        r#type: String,
        /// A number.
        number: u64,
        /// A name as the macro uses.
        field0: u8,
        /// Another.
        replies: u8,
    },
    /// A request.
    Ask(Reply<u64>),
    /// A request by a longer path, with data beside it.
    #[expect(unused_qualifications, reason = "so that there is a longer path")]
    AskFor {
        /// The question.
        question: HashMap<String, u32>,
        /// The answer.
        answer: cluster::Reply<Vec<String>>,
    },
    /// Two answers.
    Twice(Reply<()>, u8, Reply<Result<u8, String>>),
    /// Many answers, beside one.
    Stream {
        /// A name as the macro uses.
        origin: u8,
        /// The many.
        lines: Replies<Vec<String>>,
        /// The one.
        total: Reply<u64>,
    },
    /// Nothing at all.
    Marker(PhantomData<fn() -> u8>),
    /// No longer sent.
    #[deprecated]
    Old(u8),
}

#[derive(Message)]
enum Never {}

#[derive(Message)]
struct Unit;

#[derive(Message)]
struct Newtype(String);

#[derive(Message)]
struct Named {
    first: u8,
    request: Reply<u8>,
}

#[derive(Message)]
struct Tuple(u8, Reply<u8>);

/// The public one, with private parts.
#[derive(Message)]
pub struct Public {
    hidden: u8,
    /// Shown.
    pub shown: u8,
    pub(crate) between: u8,
}

mod inner {
    #[derive(cluster::Message)]
    pub(super) struct Restricted(pub(super) u8);
}

#[derive(Message)]
enum OddNames {
    r#Raw,
    Field0,
    Ok,
    Self_,
}

const fn is_message<M: Message>() {}

fn main() {
    #[derive(Message)]
    struct Local(u8);

    is_message::<Everything>();
    is_message::<Never>();
    is_message::<Unit>();
    is_message::<Newtype>();
    is_message::<Named>();
    is_message::<Tuple>();
    is_message::<Public>();
    is_message::<inner::Restricted>();
    is_message::<OddNames>();
    is_message::<Local>();
}
