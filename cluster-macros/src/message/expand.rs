//! What is written out: the impl of the trait, around the mirror, and what stands in its place beside a mistake.

use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote};
use syn::ext::IdentExt as _;
use syn::{GenericParam, Path, WherePredicate, parse_quote};

use super::conversion::origin_name;
use super::mirror::mirror_name;
use super::model::{Kind, Message, Part};

impl Message<'_> {
    pub(super) fn expand(&self) -> TokenStream {
        let Self { krate, name, generics, .. } = self;
        let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
        let label = name.unraw().to_string();
        let mirror = self.mirror();
        let wire = mirror_name();
        let wire = quote!(#wire #ty_generics);
        let fingerprint = self.fingerprint();
        let there = self.cases().iter().map(|case| case.there(krate, generics));
        let back = self.cases().iter().map(|case| case.back(generics));
        // rustc alone would name the type that cannot be sent, and not the field that it is in.
        let sendable = self.parts().filter_map(|part| part.must_be_send(krate));
        let origin = if self.has_handles() { origin_name().to_token_stream() } else { quote!(_) };
        quote! {
            const _: () = {
                #mirror

                #[automatically_derived]
                #[allow(deprecated)]
                impl #impl_generics #krate::Message for #name #ty_generics #where_clause {
                    type Wire = #wire;

                    const NAME: &'static ::core::primitive::str = #label;

                    fn fingerprint() -> #krate::__private::Fingerprint {
                        #(#sendable)*
                        #fingerprint
                    }

                    #[inline]
                    fn into_wire(self) -> ::core::result::Result<#wire, #krate::__private::ForwardedReply> {
                        match self { #(#there)* }
                    }

                    #[inline]
                    fn from_wire(wire: #wire, #origin: &#krate::__private::Origin) -> Self {
                        match wire { #(#back)* }
                    }
                }
            };
        }
    }

    /// An impl that satisfies every bound and does nothing, for beside an error: one mistake, one message.
    pub(super) fn stub(&self) -> TokenStream {
        let Self { krate, name, .. } = self;
        let mut generics = self.generics.clone();
        let bounds: Vec<WherePredicate> = self.generics.params.iter().filter_map(static_bound).collect();
        generics.make_where_clause().predicates.extend(bounds);
        let (impl_generics, _, where_clause) = generics.split_for_impl();
        let (_, ty_generics, _) = self.generics.split_for_impl();
        quote! {
            const _: () = {
                #[automatically_derived]
                impl #impl_generics #krate::Message for #name #ty_generics #where_clause {
                    type Wire = ();
                    const NAME: &'static ::core::primitive::str = "";
                    fn fingerprint() -> #krate::__private::Fingerprint {
                        ::core::unreachable!()
                    }
                    fn into_wire(self) -> ::core::result::Result<(), #krate::__private::ForwardedReply> {
                        ::core::unreachable!()
                    }
                    fn from_wire(_: (), _: &#krate::__private::Origin) -> Self {
                        ::core::unreachable!()
                    }
                }
            };
        }
    }
}

impl Part<'_> {
    fn must_be_send(&self, krate: &Path) -> Option<TokenStream> {
        let ty = self.ty;
        (matches!(self.kind, Kind::Data) && !self.is_plain()).then(|| quote!(#krate::__private::must_be_send::<#ty>();))
    }
}

/// What the trait asks of a parameter, for a stub beside an error.
fn static_bound(parameter: &GenericParam) -> Option<WherePredicate> {
    match parameter {
        GenericParam::Lifetime(parameter) => {
            let lifetime = &parameter.lifetime;
            Some(parse_quote!(#lifetime: 'static))
        }
        GenericParam::Type(parameter) => {
            let name = &parameter.ident;
            Some(parse_quote!(#name: ::core::marker::Send + 'static))
        }
        GenericParam::Const(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::derive;

    #[test]
    fn a_reply_travels_as_its_tag_and_the_rest_as_it_is() {
        let input = quote! {
            enum ToPrimary {
                Hit { #[serde(rename = "p")] path: String },
                Total(Reply<u64>),
            }
        };
        let expected = quote! {
            const _: () = {
                #[derive(::cluster::__private::serde::Serialize, ::cluster::__private::serde::Deserialize)]
                #[serde(crate = "::cluster::__private::serde", bound = "")]
                #[doc(hidden)]
                enum __ClusterWire {
                    Hit { #[serde(rename = "p")] path: String },
                    Total(::cluster::__private::ReplyTag)
                }

                #[automatically_derived]
                #[allow(deprecated)]
                impl ::cluster::Message for ToPrimary {
                    type Wire = __ClusterWire;

                    const NAME: &'static ::core::primitive::str = "ToPrimary";

                    fn fingerprint() -> ::cluster::__private::Fingerprint {
                        ::cluster::__private::Fingerprint::of(
                            "enumToPrimary{Hit{#[serde(rename=\"p\")]path:String},Total(Reply<u64>)}"
                        )
                    }

                    #[inline]
                    fn into_wire(
                        self
                    ) -> ::core::result::Result<__ClusterWire, ::cluster::__private::ForwardedReply> {
                        match self {
                            Self::Hit { path: field0 } =>
                                ::core::result::Result::Ok(__ClusterWire::Hit { path: field0 }),
                            Self::Total { 0: field0 } =>
                                ::core::result::Result::Ok(__ClusterWire::Total {
                                    0: ::cluster::__private::reply_tag(field0)?
                                }),
                        }
                    }

                    #[inline]
                    fn from_wire(wire: __ClusterWire, origin: &::cluster::__private::Origin) -> Self {
                        match wire {
                            __ClusterWire::Hit { path: field0 } => Self::Hit { path: field0 },
                            __ClusterWire::Total { 0: field0 } => Self::Total { 0: origin.reply(field0) },
                        }
                    }
                }
            };
        };
        assert_eq!(derive(input).to_string(), expected.to_string());
    }

    #[test]
    fn beside_a_mistake_stands_an_impl_that_does_nothing() {
        let expansion = derive(quote!(
            struct M<'a, T>(&'a T);
        ))
        .to_string();
        assert_eq!(expansion.matches("compile_error").count(), 1, "{expansion}");
        let header = quote!(impl<'a, T> ::cluster::Message for M<'a, T>
            where 'a: 'static, T: ::core::marker::Send + 'static);
        assert!(expansion.contains(&header.to_string()), "{expansion}");
        assert!(!expansion.contains("serde"), "{expansion}");
    }
}
