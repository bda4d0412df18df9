//! `#[derive(cluster::Message)]`: a hidden mirror of the type that can travel, and the way there and back.
//!
//! The mirror has the same variants, fields and serde attributes, with a number in place of each `Reply<T>` and
//! `Replies<T>`, and derives serde's traits, each field by a module of the runtime; the way there and back are two
//! matches. Refused is what cannot cross a process boundary, or cannot be decoded from a form that does not describe
//! itself.
//!
//! What the user wrote is read into a `model`: attributes by `keys` and `serde`, the types of fields by `handle` and
//! `refused`. Then `expand` writes the impl around what `mirror`, `conversion` and `fingerprint` make of the model.

mod conversion;
mod definition;
mod expand;
mod fingerprint;
mod handle;
mod keys;
mod mirror;
mod model;
mod refused;
mod serde;
mod text;

use proc_macro2::TokenStream;
use quote::quote;
use syn::DeriveInput;

use self::model::Message;
use crate::mistakes::Mistakes;

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut mistakes = Mistakes::default();
    let message = Message::read(&input, &mut mistakes);
    if mistakes.is_empty() {
        message.expand()
    } else {
        let stub = message.stub();
        quote!(#mistakes #stub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_reported_once() {
        for input in [
            quote!(union M { a: u8 }),
            quote!(
                struct M<'a> {
                    a: &'a str,
                }
            ),
            quote!(
                struct M<'a>(Cow<'a, str>);
            ),
            quote!(
                struct M(Box<dyn Fn(&u8)>);
            ),
            quote!(
                enum M {
                    A(Option<Reply<u8>>),
                }
            ),
            quote!(
                enum M {
                    A(Reply<Reply<u8>>),
                }
            ),
            quote!(
                enum M {
                    A(Reply<Replies<u8>>),
                }
            ),
            quote!(
                enum M {
                    A(Vec<Replies<u8>>),
                }
            ),
            quote!(
                enum M {
                    A(#[serde(skip)] Replies<u8>),
                }
            ),
            quote!(
                enum M {
                    A([cluster::Reply<u8>; 2]),
                }
            ),
            quote!(
                enum M {
                    A(#[serde(with = "x")] Reply<u8>),
                }
            ),
            quote!(
                #[serde(tag = "t", content = "c")]
                enum M {
                    A,
                }
            ),
            quote!(
                enum M {
                    #[serde(untagged)]
                    A,
                }
            ),
            quote!(
                enum M {
                    #[serde(skip)]
                    A,
                }
            ),
            quote!(
                struct M {
                    #[serde(flatten)]
                    a: u8,
                }
            ),
            quote!(
                struct M {
                    #[serde(skip_deserializing, default)]
                    a: u8,
                }
            ),
            quote!(
                #[serde(try_from = "u8", into = "u8")]
                struct M(u8);
            ),
            quote!(
                #[message(name = "m")]
                struct M;
            ),
            quote!(
                #[message(version = 1, version = 2)]
                struct M;
            ),
            quote!(
                #[message(version = "1")]
                struct M;
            ),
        ] {
            assert_eq!(mistakes(input.clone()).len(), 1, "{input}");
        }
    }

    #[test]
    fn what_works_by_position_is_no_mistake() {
        for input in [
            quote!(
                struct M {
                    #[serde(skip)]
                    a: u8,
                    #[serde(skip_serializing, skip_deserializing)]
                    b: u8,
                }
            ),
            quote!(
                #[serde(crate = "serde", rename_all = "kebab-case")]
                struct M {
                    #[serde(default, alias = "b")]
                    a: u8,
                }
            ),
            quote!(
                enum M {
                    A(Reply),
                    B(my::Reply, u8),
                }
            ),
            quote!(
                enum M {}
            ),
        ] {
            assert_eq!(mistakes(input.clone()), [""; 0], "{input}");
        }
    }

    fn mistakes(input: TokenStream) -> Vec<String> {
        let mut mistakes = Mistakes::default();
        let _ = Message::read(&syn::parse2(input).unwrap(), &mut mistakes);
        mistakes.messages()
    }
}
