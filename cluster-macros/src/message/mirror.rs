//! The type that travels: the same variants and fields, with numbers in place of handles.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::{ToTokens as _, quote};
use syn::spanned::Spanned as _;
use syn::{Generics, Ident, LitStr, Meta, Path, Type, parse_quote};

use super::model::{Kind, Message, Part};
use super::serde::serde_tokens;
use super::text::plainly;

impl Message<'_> {
    /// The type that travels.
    pub(super) fn mirror(&self) -> TokenStream {
        let Self { krate, name, visibility, generics, .. } = self;
        let serde = plainly(quote!(#krate::__private::serde));
        // Only the user's own bounds: with a `T: DeserializeOwned` among them, those that serde adds make two for the same T.
        let bound = (!self.serde.iter().any(|meta| meta.path().is_ident("bound"))).then(|| quote!(, bound = ""));
        let definition = self.definition(&mirror_name(), visibility, |part| {
            let mut serde = part.serde.clone();
            serde.extend(part.carrier(krate));
            (serde_tokens(&serde), part.wire_type(krate, generics))
        });
        let (_, ty_generics, _) = generics.split_for_impl();
        let definition = with_self(definition, &quote!(#name #ty_generics));
        quote! {
            #[derive(#krate::__private::serde::Serialize, #krate::__private::serde::Deserialize)]
            #[serde(crate = #serde #bound)]
            #[doc(hidden)]
            #definition
        }
    }
}

impl Part<'_> {
    /// A type parameter that stands in replies only would have no use in the mirror, and is kept by a phantom.
    fn wire_type(&self, krate: &Path, generics: &Generics) -> TokenStream {
        match self.kind {
            Kind::Data => self.ty.to_token_stream(),
            Kind::Handle(_, answer) if is_generic(generics) => {
                quote!((#krate::__private::ReplyTag, ::core::marker::PhantomData<#answer>))
            }
            Kind::Handle(..) => quote!(#krate::__private::ReplyTag),
        }
    }

    /// `with = "…"`, by which the mirror's field travels. The compiler points at the type if that does not work.
    fn carrier(&self, krate: &Path) -> Option<Meta> {
        let has_own_way = self.serde.iter().any(|meta| OWN_WAY.iter().any(|name| meta.path().is_ident(name)));
        if matches!(self.kind, Kind::Handle(..)) || self.is_plain() || has_own_way {
            return None;
        }
        let module = if is_bytes(&plainly(self.ty.to_token_stream())) { quote!(bytes) } else { quote!(data) };
        let module = LitStr::new(&plainly(quote!(#krate::__private::#module)), self.ty.span());
        Some(parse_quote!(with = #module))
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self.ty, Type::Path(path) if PLAIN.iter().any(|name| path.path.is_ident(name)))
    }
}

/// Types that are data in any case, and common: nothing has to be said about them.
const PLAIN: [&str; 16] = [
    "bool", "char", "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize", "f64",
    "String",
];

/// Serde's attributes by which a field says itself how it travels, or that it does not.
const OWN_WAY: [&str; 6] =
    ["with", "serialize_with", "deserialize_with", "skip", "skip_serializing", "skip_deserializing"];

/// Whether the type is written as a `Vec<u8>` or a `Box<[u8]>`, by whatever path.
fn is_bytes(text: &str) -> bool {
    let last = text.rsplit_once("::").map_or(text, |(_, last)| last);
    matches!(last, "Vec<u8>" | "Box<[u8]>")
}

pub(super) fn mirror_name() -> Ident {
    Ident::new("__ClusterWire", Span::call_site())
}

pub(super) fn is_generic(generics: &Generics) -> bool {
    generics.type_params().next().is_some()
}

/// The tokens with the type's own name for `Self`, which would mean the mirror there.
fn with_self(tokens: TokenStream, name: &TokenStream) -> TokenStream {
    let replace = |token| match token {
        TokenTree::Ident(ident) if ident == "Self" => name.clone(),
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), with_self(group.stream(), name));
            inner.set_span(group.span());
            inner.into_token_stream()
        }
        other => other.into_token_stream(),
    };
    tokens.into_iter().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use syn::DeriveInput;

    use super::*;
    use crate::message::derive;
    use crate::mistakes::Mistakes;

    #[test]
    fn what_is_data_travels_by_a_module_of_ours_and_bytes_in_one_piece() {
        let carrier = |field: TokenStream| {
            let input: DeriveInput = syn::parse2(quote!(struct M { #field })).unwrap();
            let message = Message::read(&input, &mut Mistakes::default());
            let part = message.parts().next().unwrap();
            part.carrier(&message.krate).map_or_else(String::new, |meta| plainly(meta.into_token_stream()))
        };
        for bytes in [quote!(Vec<u8>), quote!(std::vec::Vec<u8>), quote!(::std::boxed::Box<[u8]>), quote!(Box<[u8]>)] {
            assert_eq!(carrier(quote!(a: #bytes)), r#"with="::cluster::__private::bytes""#);
        }
        for data in [quote!(Vec<u16>), quote!(Option<Vec<u8>>), quote!(Color), quote!((u8, u8)), quote!([u8; 4])] {
            assert_eq!(carrier(quote!(a: #data)), r#"with="::cluster::__private::data""#);
        }
        for own in [quote!(a: u8), quote!(a: String), quote!(a: Reply<Color>), quote!(#[serde(skip)] a: Vec<u8>)] {
            assert_eq!(carrier(own), "");
        }
        for with in [quote!(with), quote!(serialize_with), quote!(deserialize_with)] {
            assert_eq!(carrier(quote!(#[serde(default, #with = "mine")] a: Vec<u8>)), "");
        }
    }

    #[test]
    fn self_means_the_message_in_the_mirror_too() {
        let expansion = plainly(derive(quote!(
            struct M<T: Payload>(Box<Self>, T);
        )));
        assert!(
            expansion
                .contains(r#"struct__ClusterWire<T:Payload>(#[serde(with="::cluster::__private::data")]Box<M<T>>,"#),
            "{expansion}"
        );
    }

    #[test]
    fn a_bound_of_the_users_takes_the_place_of_ours() {
        let expansion = derive(quote!(
            #[serde(bound = "T: Payload")]
            struct M<T: Payload>(T);
        ))
        .to_string();
        assert_eq!(expansion.matches("bound").count(), 2, "once for serde, once in the fingerprint: {expansion}");
    }
}
