//! The two macros of `cluster`: the attribute on `main` and the derive for messages.
//!
//! Use them through the `cluster` crate, where they are documented for users: what they expand to names that crate. Here
//! each macro is parse → check → expand: `args` reads the attribute, `entry` writes `main`, `message` the derive, and
//! `mistakes` collects what is wrong, so that one build reports all of it. What the runtime can do is not here.

mod args;
mod entry;
mod message;
mod mistakes;

use proc_macro::TokenStream;

/// Makes an async `main` the main of a cluster's workers; documented as `cluster::main`.
#[proc_macro_attribute]
pub fn main(args: TokenStream, item: TokenStream) -> TokenStream {
    entry::main(args.into(), &item.into()).into()
}

/// Makes an enum or struct a message between the processes of a cluster; documented as `cluster::Message`.
#[proc_macro_derive(Message, attributes(serde, message))]
pub fn message(input: TokenStream) -> TokenStream {
    message::derive(input.into()).into()
}
