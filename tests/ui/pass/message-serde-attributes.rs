//! Serde's attributes that a codec by position can follow are copied.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

use std::sync::Arc;
use std::time::Instant;

use cluster::{Message, Reply};

#[derive(Message)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum ToPrimary {
    #[serde(rename = "hit")]
    Hit {
        #[serde(with = "as_text")]
        number: Unknown,
        #[serde(skip)]
        here_only: Option<Arc<Instant>>,
        #[serde(skip_serializing, skip_deserializing, default = "now")]
        since: Instant,
        reply: Reply<u8>,
    },
    #[serde(alias = "other", rename(serialize = "a", deserialize = "b"))]
    Other(#[serde(serialize_with = "as_text::serialize", deserialize_with = "as_text::deserialize")] Unknown),
}

#[derive(Message)]
#[serde(transparent)]
struct Transparent {
    only: u8,
}

/// Not serde's.
struct Unknown(u8);

fn now() -> Instant {
    Instant::now()
}

mod as_text {
    use cluster::__private::serde::{Deserialize as _, Deserializer, Serializer};

    use super::Unknown;

    pub(super) fn serialize<S: Serializer>(value: &Unknown, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.0.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Unknown, D::Error> {
        u8::deserialize(deserializer).map(Unknown)
    }
}

const fn is_message<M: Message>() {}

fn main() {
    is_message::<ToPrimary>();
    is_message::<Transparent>();
}
