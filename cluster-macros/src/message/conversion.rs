//! The way there and back: an arm for each case in either direction, where handles become numbers and numbers handles.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens as _, format_ident, quote};
use syn::spanned::Spanned as _;
use syn::{Generics, Ident, Path};

use super::mirror::{is_generic, mirror_name};
use super::model::{Case, Kind, Part};

impl Case<'_> {
    /// The arm of `into_wire`.
    pub(super) fn there(&self, krate: &Path, generics: &Generics) -> TokenStream {
        let (ours, wire) = self.constructors();
        let pattern = self.pattern();
        let values = self.parts.iter().enumerate().map(|(index, part)| {
            let (member, value) = (&part.member, part.there(&part.binding(index), krate, generics));
            quote!(#member: #value)
        });
        quote!(#ours #pattern => ::core::result::Result::Ok(#wire { #(#values),* }),)
    }

    /// The arm of `from_wire`.
    pub(super) fn back(&self, generics: &Generics) -> TokenStream {
        let (ours, wire) = self.constructors();
        let pattern = self.pattern();
        let values = self.parts.iter().enumerate().map(|(index, part)| {
            let (member, value) = (&part.member, part.back(&part.binding(index), generics));
            quote!(#member: #value)
        });
        quote!(#wire #pattern => #ours { #(#values),* },)
    }

    /// The path of this case in the user's type, and in the mirror.
    fn constructors(&self) -> (TokenStream, TokenStream) {
        let (name, mirror) = (self.name.into_iter(), mirror_name());
        let variant = quote!(#(::#name)*);
        (quote!(Self #variant), quote!(#mirror #variant))
    }

    /// With braces and members for every kind of fields: `{ 0: a, 1: b }` is a tuple's too.
    fn pattern(&self) -> TokenStream {
        let members = self.parts.iter().map(|part| &part.member);
        let bindings = self.parts.iter().enumerate().map(|(index, part)| part.binding(index));
        quote!({ #(#members: #bindings),* })
    }
}

impl Part<'_> {
    fn there(&self, value: &Ident, krate: &Path, generics: &Generics) -> TokenStream {
        let Kind::Handle(handle, _) = self.kind else { return value.to_token_stream() };
        let into_tag = handle.into_tag(krate);
        if is_generic(generics) {
            quote!((#into_tag(#value)?, ::core::marker::PhantomData))
        } else {
            quote!(#into_tag(#value)?)
        }
    }

    fn back(&self, value: &Ident, generics: &Generics) -> TokenStream {
        let Kind::Handle(handle, _) = self.kind else { return value.to_token_stream() };
        let (origin, make) = (origin_name(), Ident::new(handle.maker(), Span::call_site()));
        let tag = if is_generic(generics) { quote!(#value.0) } else { value.to_token_stream() };
        quote!(#origin.#make(#tag))
    }

    /// With the span of what must be data, which is where the compiler points if a reply's answer is not.
    fn binding(&self, index: usize) -> Ident {
        let data = match self.kind {
            Kind::Data => self.ty,
            Kind::Handle(_, answer) => answer,
        };
        format_ident!("field{index}", span = Span::mixed_site().located_at(data.span()))
    }
}

pub(super) fn origin_name() -> Ident {
    Ident::new("origin", Span::mixed_site())
}
