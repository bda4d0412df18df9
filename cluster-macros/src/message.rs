//! `#[derive(cluster::Message)]`: a hidden mirror of the type that can travel, and the way there and back.
//!
//! The mirror has the same variants, fields and serde attributes, with a number in place of each `Reply<T>`, and derives
//! serde's traits; the way there and back are two matches. Refused is what cannot cross a process boundary, or cannot be
//! decoded from bincode, which does not describe itself.
//!
//! The file reads in this order: the type in our terms, what is written out, what is refused.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Data, DeriveInput, Field, Fields, GenericArgument, GenericParam, Generics, Member, Meta, Path,
    PathArguments, Token, Type, Variant, Visibility, WherePredicate, parse_quote,
};

use crate::args::crate_path;
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

/// The type that is to be a message, in our terms.
struct Message<'a> {
    krate: Path,
    visibility: &'a Visibility,
    name: &'a Ident,
    generics: &'a Generics,
    serde: Vec<Meta>,
    body: Body<'a>,
}

enum Body<'a> {
    Struct(Case<'a>),
    Enum(Vec<Case<'a>>),
    /// Not to be expanded: the mistake is noted.
    Union,
}

/// A variant, or what a struct has in its place.
struct Case<'a> {
    /// The variant's name; a struct has none here.
    name: Option<&'a Ident>,
    serde: Vec<Meta>,
    fields: &'a Fields,
    parts: Vec<Part<'a>>,
}

/// A field.
struct Part<'a> {
    member: Member,
    serde: Vec<Meta>,
    ty: &'a Type,
    kind: Kind<'a>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    /// Travels as it is.
    Data,
    /// A `Reply` to this type, which travels as a number.
    Reply(&'a Type),
}

impl<'a> Message<'a> {
    fn read(input: &'a DeriveInput, mistakes: &mut Mistakes) -> Self {
        let body = match &input.data {
            Data::Struct(data) => Body::Struct(Case::read(None, Vec::new(), &data.fields, mistakes)),
            Data::Enum(data) => {
                Body::Enum(data.variants.iter().map(|variant| Case::of_variant(variant, mistakes)).collect())
            }
            Data::Union(data) => {
                mistakes.on(data.union_token, "nobody could tell which field of a union to send: write an enum");
                Body::Union
            }
        };
        let krate = own_crate(&input.attrs, mistakes);
        let mut serde = serde_attributes(&input.attrs, Place::Type, mistakes);
        // The mirror's serde is the one that the runtime brings along.
        serde.retain(|meta| !meta.path().is_ident("crate"));
        Self { krate, visibility: &input.vis, name: &input.ident, generics: &input.generics, serde, body }
    }

    fn cases(&self) -> &[Case<'a>] {
        match &self.body {
            Body::Struct(case) => std::slice::from_ref(case),
            Body::Enum(cases) => cases,
            Body::Union => &[],
        }
    }

    fn has_replies(&self) -> bool {
        self.cases().iter().flat_map(|case| &case.parts).any(|part| matches!(part.kind, Kind::Reply(_)))
    }
}

impl<'a> Case<'a> {
    fn of_variant(variant: &'a Variant, mistakes: &mut Mistakes) -> Self {
        let serde = serde_attributes(&variant.attrs, Place::Variant, mistakes);
        Self::read(Some(&variant.ident), serde, &variant.fields, mistakes)
    }

    fn read(name: Option<&'a Ident>, serde: Vec<Meta>, fields: &'a Fields, mistakes: &mut Mistakes) -> Self {
        let parts =
            fields.iter().zip(fields.members()).map(|(field, member)| Part::read(field, member, mistakes)).collect();
        Self { name, serde, fields, parts }
    }
}

impl<'a> Part<'a> {
    fn read(field: &'a Field, member: Member, mistakes: &mut Mistakes) -> Self {
        let kind = answer(&field.ty).map_or(Kind::Data, Kind::Reply);
        let place = match kind {
            Kind::Data => Place::Field,
            Kind::Reply(_) => Place::Reply,
        };
        refuse_borrowed(&field.ty, mistakes);
        refuse_nested_reply(&field.ty, kind, mistakes);
        Self { member, serde: serde_attributes(&field.attrs, place, mistakes), ty: &field.ty, kind }
    }
}

/// The `T` of a type that is written `Reply<T>`, by whatever path.
fn answer(ty: &Type) -> Option<&Type> {
    match ty {
        Type::Group(group) => answer(&group.elem),
        Type::Paren(paren) => answer(&paren.elem),
        Type::Path(path) => {
            let last = path.path.segments.last().filter(|last| last.ident == "Reply")?;
            let PathArguments::AngleBracketed(list) = &last.arguments else { return None };
            match list.args.first() {
                Some(GenericArgument::Type(answer)) if list.args.len() == 1 => Some(answer),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What is written out.
impl Message<'_> {
    fn expand(&self) -> TokenStream {
        let Self { krate, name, generics, .. } = self;
        let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
        let label = name.unraw().to_string();
        let mirror = self.mirror();
        let wire = mirror_name();
        let wire = quote!(#wire #ty_generics);
        let fingerprint = self.fingerprint();
        let there = self.cases().iter().map(|case| case.there(krate, generics));
        let back = self.cases().iter().map(|case| case.back(generics));
        let replies = if self.has_replies() { replies_name().to_token_stream() } else { quote!(_) };
        quote! {
            const _: () = {
                #mirror

                #[automatically_derived]
                #[allow(deprecated)]
                impl #impl_generics #krate::Message for #name #ty_generics #where_clause {
                    type Wire = #wire;

                    const NAME: &'static ::core::primitive::str = #label;

                    fn fingerprint() -> #krate::__private::Fingerprint {
                        #fingerprint
                    }

                    #[inline]
                    fn into_wire(self) -> ::core::result::Result<#wire, #krate::__private::ForwardedReply> {
                        match self { #(#there)* }
                    }

                    #[inline]
                    fn from_wire(wire: #wire, #replies: &#krate::__private::Replies) -> Self {
                        match wire { #(#back)* }
                    }
                }
            };
        }
    }

    /// An impl that satisfies every bound and does nothing, for beside an error: one mistake, one message.
    fn stub(&self) -> TokenStream {
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
                    fn from_wire(_: (), _: &#krate::__private::Replies) -> Self {
                        ::core::unreachable!()
                    }
                }
            };
        }
    }

    /// The type that travels.
    fn mirror(&self) -> TokenStream {
        let Self { krate, name, visibility, generics, .. } = self;
        let serde = plainly(quote!(#krate::__private::serde));
        // Only the user's own bounds: with a `T: DeserializeOwned` among them, those that serde adds make two for the same T.
        let bound = (!self.serde.iter().any(|meta| meta.path().is_ident("bound"))).then(|| quote!(, bound = ""));
        let definition = self.definition(&mirror_name(), visibility, |part| part.wire_type(krate, generics));
        let (_, ty_generics, _) = generics.split_for_impl();
        let definition = with_self(definition, &quote!(#name #ty_generics));
        quote! {
            #[derive(#krate::__private::serde::Serialize, #krate::__private::serde::Deserialize)]
            #[serde(crate = #serde #bound)]
            #[doc(hidden)]
            #definition
        }
    }

    /// Names the type and everything that decides how it is encoded, and the types that it is generic over.
    fn fingerprint(&self) -> TokenStream {
        let Self { krate, generics, .. } = self;
        let schema = self.definition(self.name, &Visibility::Inherited, |part| part.ty.to_token_stream());
        let text = plainly(schema);
        let types = generics.type_params().map(|parameter| &parameter.ident);
        // The values of const parameters have no text: they are part of the whole type's name.
        let whole = generics.const_params().next().map(|_| quote!(.with_type::<Self>()));
        quote!(#krate::__private::Fingerprint::of(#text)#(.with_type::<#types>())* #whole)
    }

    /// The definition anew, with another name and other types, without any attribute but serde's.
    fn definition(&self, name: &Ident, visibility: &Visibility, ty: impl Fn(&Part<'_>) -> TokenStream) -> TokenStream {
        let (generics, where_clause) = (self.generics, &self.generics.where_clause);
        let serde = serde_tokens(&self.serde);
        match &self.body {
            Body::Struct(case) => {
                let fields = case.definition(ty);
                match case.fields {
                    Fields::Named(_) => quote!(#serde #visibility struct #name #generics #where_clause #fields),
                    Fields::Unnamed(_) | Fields::Unit => {
                        quote!(#serde #visibility struct #name #generics #fields #where_clause;)
                    }
                }
            }
            Body::Enum(cases) => {
                let cases = cases.iter().map(|case| {
                    let (serde, name, fields) = (serde_tokens(&case.serde), case.name, case.definition(&ty));
                    quote!(#serde #name #fields)
                });
                quote!(#serde #visibility enum #name #generics #where_clause { #(#cases),* })
            }
            Body::Union => TokenStream::new(),
        }
    }
}

impl Case<'_> {
    fn definition(&self, ty: impl Fn(&Part<'_>) -> TokenStream) -> TokenStream {
        let fields = self.parts.iter().map(|part| {
            let (serde, ty) = (serde_tokens(&part.serde), ty(part));
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

    /// The arm of `into_wire`.
    fn there(&self, krate: &Path, generics: &Generics) -> TokenStream {
        let (ours, wire) = self.constructors();
        let pattern = self.pattern();
        let values = self.parts.iter().enumerate().map(|(index, part)| {
            let (member, value) = (&part.member, part.there(&binding(index), krate, generics));
            quote!(#member: #value)
        });
        quote!(#ours #pattern => ::core::result::Result::Ok(#wire { #(#values),* }),)
    }

    /// The arm of `from_wire`.
    fn back(&self, generics: &Generics) -> TokenStream {
        let (ours, wire) = self.constructors();
        let pattern = self.pattern();
        let values = self.parts.iter().enumerate().map(|(index, part)| {
            let (member, value) = (&part.member, part.back(&binding(index), generics));
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
        let bindings = (0..self.parts.len()).map(binding);
        quote!({ #(#members: #bindings),* })
    }
}

impl Part<'_> {
    /// A type parameter that stands in replies only would have no use in the mirror, and is kept by a phantom.
    fn wire_type(&self, krate: &Path, generics: &Generics) -> TokenStream {
        match self.kind {
            Kind::Data => self.ty.to_token_stream(),
            Kind::Reply(answer) if is_generic(generics) => {
                quote!((#krate::__private::ReplyTag, ::core::marker::PhantomData<#answer>))
            }
            Kind::Reply(_) => quote!(#krate::__private::ReplyTag),
        }
    }

    fn there(&self, value: &Ident, krate: &Path, generics: &Generics) -> TokenStream {
        match self.kind {
            Kind::Data => value.to_token_stream(),
            Kind::Reply(_) => {
                // The field's span, for the case that its type is a `Reply` of someone else's.
                let into_tag = quote_spanned!(self.ty.span()=> #krate::Reply::into_tag);
                let phantom = is_generic(generics).then(|| quote!(::core::marker::PhantomData));
                match phantom {
                    Some(phantom) => quote!((#into_tag(#value)?, #phantom)),
                    None => quote!(#into_tag(#value)?),
                }
            }
        }
    }

    fn back(&self, value: &Ident, generics: &Generics) -> TokenStream {
        let replies = replies_name();
        match self.kind {
            Kind::Data => value.to_token_stream(),
            Kind::Reply(_) if is_generic(generics) => quote!(#replies.reply(#value.0)),
            Kind::Reply(_) => quote!(#replies.reply(#value)),
        }
    }
}

fn mirror_name() -> Ident {
    Ident::new("__ClusterWire", Span::call_site())
}

fn replies_name() -> Ident {
    Ident::new("replies", Span::mixed_site())
}

fn binding(index: usize) -> Ident {
    format_ident!("field{index}", span = Span::mixed_site())
}

fn is_generic(generics: &Generics) -> bool {
    generics.type_params().next().is_some()
}

fn serde_tokens(serde: &[Meta]) -> TokenStream {
    if serde.is_empty() { TokenStream::new() } else { quote!(#[serde(#(#serde),*)]) }
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

/// The tokens as text without white space. How a stream prints itself differs between compilers; this does not.
fn plainly(tokens: TokenStream) -> String {
    let mut text = String::new();
    write_plainly(tokens, &mut text);
    text
}

fn write_plainly(tokens: TokenStream, text: &mut String) {
    for token in tokens {
        let TokenTree::Group(group) = token else {
            text.extend(token.to_string().split_whitespace());
            continue;
        };
        let (open, close) = match group.delimiter() {
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::Brace => ("{", "}"),
            Delimiter::Bracket => ("[", "]"),
            Delimiter::None => ("", ""),
        };
        text.push_str(open);
        write_plainly(group.stream(), text);
        text.push_str(close);
    }
}

/// Where a serde attribute stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Type,
    Variant,
    Field,
    Reply,
}

/// The contents of all `#[serde(..)]`, one by one; refuses what cannot work here.
fn serde_attributes(attributes: &[Attribute], place: Place, mistakes: &mut Mistakes) -> Vec<Meta> {
    let mut serde = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        if place == Place::Reply {
            mistakes
                .on(attribute, "a `Reply` travels as a number of the runtime's, not by serde: delete this attribute");
            continue;
        }
        let list = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        serde.extend(mistakes.keep(list).unwrap_or_default());
    }
    refuse_serde(&serde, place, mistakes);
    serde
}

fn refuse_serde(serde: &[Meta], place: Place, mistakes: &mut Mistakes) {
    let skips_both = ["skip_serializing", "skip_deserializing"]
        .iter()
        .all(|name| serde.iter().any(|meta| meta.path().is_ident(name)));
    for meta in serde {
        let Some(name) = meta.path().get_ident().map(Ident::to_string) else { continue };
        let why = match name.as_str() {
            "untagged" | "tag" => {
                "messages travel as bincode, which names nothing and goes by position: delete this; every variant is told \
                 apart by its number"
            }
            "flatten" => {
                "messages travel as bincode, which names nothing and goes by position: delete `flatten`; the field is as \
                 small without it"
            }
            "skip_serializing_if" => {
                "messages travel as bincode, which goes by position and misses a field that is not there: delete this, or \
                 write `skip` to leave the field out always"
            }
            "skip" | "skip_serializing" | "skip_deserializing" if place == Place::Variant => {
                "messages travel as bincode, which counts the variants, and a skipped one shifts those behind it: delete \
                 this"
            }
            "skip_serializing" | "skip_deserializing" if place == Place::Field && !skips_both => {
                "messages travel as bincode, which goes by position, so that both ends must leave a field out: write `skip`"
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

/// The crate from `#[message(crate = "path")]`.
fn own_crate(attributes: &[Attribute], mistakes: &mut Mistakes) -> Path {
    let mut krate = parse_quote!(::cluster);
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("message")) {
        let given = attribute.parse_args_with(|input: ParseStream<'_>| {
            input.parse::<Token![crate]>()?;
            input.parse::<Token![=]>()?;
            crate_path(&input.parse()?)
        });
        match given {
            Ok(path) => krate = path,
            Err(_) => {
                mistakes.on(attribute, r#"write `#[message(crate = "path::to::cluster")]`; there is no other key"#);
            }
        }
    }
    krate
}

/// Every lifetime shows in some field, so the type's lifetime parameters need no word of their own.
fn refuse_borrowed(ty: &Type, mistakes: &mut Mistakes) {
    let borrows = contains(
        ty.to_token_stream(),
        &|token, _| matches!(token, TokenTree::Punct(mark) if matches!(mark.as_char(), '&' | '\'')),
    );
    if borrows {
        let remedy = owned(ty);
        mistakes.on(ty, format_args!("messages cross a process boundary and must own their data: write {remedy}"));
    }
}

fn owned(ty: &Type) -> String {
    let Type::Reference(reference) = ty else {
        return "an owned type, such as `String` or `Vec<u8>`".to_owned();
    };
    match &*reference.elem {
        Type::Path(path) if path.path.is_ident("str") => "`String`".to_owned(),
        Type::Slice(slice) => format!("`Vec<{}>`", plainly(slice.elem.to_token_stream())),
        other => format!("`{}`", plainly(other.to_token_stream())),
    }
}

fn refuse_nested_reply(ty: &Type, kind: Kind<'_>, mistakes: &mut Mistakes) {
    let inside = match kind {
        Kind::Data => ty,
        Kind::Reply(answer) => answer,
    };
    let has_reply = contains(inside.to_token_stream(), &|token, next| {
        matches!(token, TokenTree::Ident(name) if name == "Reply")
            && matches!(next, Some(TokenTree::Punct(mark)) if mark.as_char() == '<')
    });
    if has_reply {
        mistakes.on(
            ty,
            "a `Reply` cannot travel inside another type: write the `Reply<T>` as a field of its own: \
             `Variant { reply: Reply<T> }`",
        );
    }
}

/// Whether any token, looked at together with the next, is such a one.
fn contains(tokens: TokenStream, is: &impl Fn(&TokenTree, Option<&TokenTree>) -> bool) -> bool {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let inside = match &token {
            TokenTree::Group(group) => contains(group.stream(), is),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => false,
        };
        if inside || is(&token, tokens.peek()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(input: TokenStream) -> Vec<String> {
        let mut mistakes = Mistakes::default();
        let _ = Message::read(&syn::parse2(input).unwrap(), &mut mistakes);
        mistakes.messages()
    }

    fn fingerprint(input: TokenStream) -> String {
        Message::read(&syn::parse2(input).unwrap(), &mut Mistakes::default()).fingerprint().to_string()
    }

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

                    fn into_wire(
                        self
                    ) -> ::core::result::Result<__ClusterWire, ::cluster::__private::ForwardedReply> {
                        match self {
                            Self::Hit { path: field0 } =>
                                ::core::result::Result::Ok(__ClusterWire::Hit { path: field0 }),
                            Self::Total { 0: field0 } =>
                                ::core::result::Result::Ok(__ClusterWire::Total {
                                    0: ::cluster::Reply::into_tag(field0)?
                                }),
                        }
                    }

                    fn from_wire(wire: __ClusterWire, replies: &::cluster::__private::Replies) -> Self {
                        match wire {
                            __ClusterWire::Hit { path: field0 } => Self::Hit { path: field0 },
                            __ClusterWire::Total { 0: field0 } => Self::Total { 0: replies.reply(field0) },
                        }
                    }
                }
            };
        };
        assert_eq!(derive(input).to_string(), expected.to_string());
    }

    #[test]
    fn the_fingerprint_tells_schemas_apart_and_nothing_else() {
        let one = fingerprint(quote!(
            enum M {
                A(u8),
                B { c: Vec<u8> },
            }
        ));
        let same = quote! {
            /// Documented.
            #[non_exhaustive]
            pub enum M {
                /// Too.
                A(#[allow(unused)] u8,),
                B { pub c: Vec<u8>, } = 4,
            }
        };
        assert_eq!(one, fingerprint(same));
        for other in [
            quote!(
                enum N {
                    A(u8),
                    B { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u16),
                    B { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    B { c: Vec<u8> },
                    A(u8),
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { d: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(#[serde(skip)] u8),
                    B { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { c: Vec<u8> },
                    C,
                }
            ),
        ] {
            assert_ne!(one, fingerprint(other));
        }
    }

    #[test]
    fn the_fingerprint_names_what_the_type_is_generic_over() {
        let text = fingerprint(quote!(
            struct M<T: Payload, const N: usize>([T; N]);
        ));
        assert!(text.ends_with(&quote!(.with_type::<T>().with_type::<Self>()).to_string()), "{text}");
    }

    #[test]
    fn self_means_the_message_in_the_mirror_too() {
        let expansion = plainly(derive(quote!(
            struct M<T: Payload>(Box<Self>, T);
        )));
        assert!(expansion.contains("struct__ClusterWire<T:Payload>(Box<M<T>>,T);"), "{expansion}");
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
