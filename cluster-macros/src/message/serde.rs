//! What the user says to serde, which the mirror repeats; refused is what cannot work in a form that goes by position.

use proc_macro2::TokenStream;
use quote::quote;
use syn::punctuated::Punctuated;
use syn::{Attribute, Ident, Meta, Token};

use super::handle::Handle;
use crate::mistakes::Mistakes;

/// The contents of all `#[serde(..)]`, one by one; refuses what cannot work here.
pub(super) fn serde_attributes(attributes: &[Attribute], place: Place, mistakes: &mut Mistakes) -> Vec<Meta> {
    let mut serde = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        if let Place::Handle(handle) = place {
            let name = handle.name();
            mistakes.on(
                attribute,
                format_args!("a `{name}` travels as a number of the runtime's, not by serde: delete this attribute"),
            );
            continue;
        }
        let list = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        serde.extend(mistakes.keep(list).unwrap_or_default());
    }
    refuse_serde(&serde, place, mistakes);
    serde
}

/// Where a serde attribute stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Type,
    Variant,
    Field,
    Handle(Handle),
}

fn refuse_serde(serde: &[Meta], place: Place, mistakes: &mut Mistakes) {
    let skips_both = ["skip_serializing", "skip_deserializing"]
        .iter()
        .all(|name| serde.iter().any(|meta| meta.path().is_ident(name)));
    for meta in serde {
        let Some(name) = meta.path().get_ident().map(Ident::to_string) else { continue };
        let why = match name.as_str() {
            "untagged" | "tag" => {
                "messages travel in a form that names nothing and goes by position: delete this; every variant is told apart \
                 by its number"
            }
            "flatten" => {
                "messages travel in a form that names nothing and goes by position: delete `flatten`; the field is as small \
                 without it"
            }
            "skip_serializing_if" => {
                "messages travel in a form that goes by position and misses a field that is not there: delete this, or write \
                 `skip` to leave the field out always"
            }
            "skip" | "skip_serializing" | "skip_deserializing" if place == Place::Variant => {
                "messages travel in a form that counts the variants, and a skipped one shifts those behind it: delete this"
            }
            "skip_serializing" | "skip_deserializing" if place == Place::Field && !skips_both => {
                "messages travel in a form that goes by position, so that both ends must leave a field out: write `skip`"
            }
            // One mistake, though its two halves are two keys.
            "into" if serde.iter().any(|meta| meta.path().is_ident("from") || meta.path().is_ident("try_from")) => {
                continue;
            }
            "from" | "try_from" | "into" | "remote" if place == Place::Type => {
                "a message travels as a hidden type, to which this does not apply: convert before sending, or give a field \
                 `with = \"module\"`"
            }
            _ => continue,
        };
        mistakes.on(meta, why);
    }
}

/// The attribute again.
pub(super) fn serde_tokens(serde: &[Meta]) -> TokenStream {
    if serde.is_empty() { TokenStream::new() } else { quote!(#[serde(#(#serde),*)]) }
}
