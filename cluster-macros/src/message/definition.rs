//! The definition of the type anew, as the mirror and the fingerprint need it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Fields, Ident, Member, Visibility};

use super::model::{Body, Case, Message, Part};
use super::serde::serde_tokens;

impl Message<'_> {
    /// With another name, and other attributes and types of the fields; without any attribute but serde's.
    pub(super) fn definition(
        &self,
        name: &Ident,
        visibility: &Visibility,
        field: impl Fn(&Part<'_>) -> (TokenStream, TokenStream),
    ) -> TokenStream {
        let (generics, where_clause) = (self.generics, &self.generics.where_clause);
        let serde = serde_tokens(&self.serde);
        match &self.body {
            Body::Struct(case) => {
                let fields = case.definition(field);
                match case.fields {
                    Fields::Named(_) => quote!(#serde #visibility struct #name #generics #where_clause #fields),
                    Fields::Unnamed(_) | Fields::Unit => {
                        quote!(#serde #visibility struct #name #generics #fields #where_clause;)
                    }
                }
            }
            Body::Enum(cases) => {
                let cases = cases.iter().map(|case| {
                    let (serde, name, fields) = (serde_tokens(&case.serde), case.name, case.definition(&field));
                    quote!(#serde #name #fields)
                });
                quote!(#serde #visibility enum #name #generics #where_clause { #(#cases),* })
            }
            Body::Union => TokenStream::new(),
        }
    }
}

impl Case<'_> {
    fn definition(&self, field: impl Fn(&Part<'_>) -> (TokenStream, TokenStream)) -> TokenStream {
        let fields = self.parts.iter().map(|part| {
            let (serde, ty) = field(part);
            match &part.member {
                Member::Named(name) => quote!(#serde #name: #ty),
                Member::Unnamed(_) => quote!(#serde #ty),
            }
        });
        match self.fields {
            Fields::Named(_) => quote!({ #(#fields),* }),
            Fields::Unnamed(_) => quote!((#(#fields),*)),
            Fields::Unit => TokenStream::new(),
        }
    }
}
