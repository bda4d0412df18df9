//! `#[derive(cluster::Message)]`: a hidden mirror of the type that can travel, and the way there and back.
//!
//! The mirror has the same variants, fields and serde attributes, with a number in place of each `Reply<T>` and
//! `Replies<T>`, and derives serde's traits, each field by a module of the runtime; the way there and back are two matches. Refused is what cannot cross a
//! process boundary, or cannot be decoded from a form that does not describe itself.
//!
//! The file reads in this order: the type in our terms, what is written out, what is refused.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt as _;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Data, DeriveInput, Field, Fields, GenericArgument, GenericParam, Generics, LitInt, LitStr, Member, Meta,
    Path, PathArguments, Token, Type, Variant, Visibility, WherePredicate, parse_quote,
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
    /// What the user raises when a type that a field names has changed.
    version: Option<u32>,
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
    /// A handle that answers by values of this type, and travels as a number.
    Handle(Handle, &'a Type),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Handle {
    Reply,
    Replies,
}

impl Handle {
    fn called(name: &Ident) -> Option<Self> {
        [Self::Reply, Self::Replies].into_iter().find(|handle| name == handle.name())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Reply => "Reply",
            Self::Replies => "Replies",
        }
    }

    /// What makes the number of it.
    fn into_tag(self, krate: &Path) -> TokenStream {
        match self {
            Self::Reply => quote!(#krate::__private::reply_tag),
            Self::Replies => quote!(#krate::__private::replies_tag),
        }
    }

    /// What makes it of the number; and a name for a field.
    const fn maker(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Replies => "replies",
        }
    }
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
        let Keys { krate, version } = Keys::read(&input.attrs, mistakes);
        let mut serde = serde_attributes(&input.attrs, Place::Type, mistakes);
        // The mirror's serde is the one that the runtime brings along.
        serde.retain(|meta| !meta.path().is_ident("crate"));
        Self { krate, version, visibility: &input.vis, name: &input.ident, generics: &input.generics, serde, body }
    }

    fn cases(&self) -> &[Case<'a>] {
        match &self.body {
            Body::Struct(case) => std::slice::from_ref(case),
            Body::Enum(cases) => cases,
            Body::Union => &[],
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part<'a>> {
        self.cases().iter().flat_map(|case| &case.parts)
    }

    fn has_handles(&self) -> bool {
        self.parts().any(|part| matches!(part.kind, Kind::Handle(..)))
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
        let kind = handle(&field.ty).map_or(Kind::Data, |(handle, answer)| Kind::Handle(handle, answer));
        let place = match kind {
            Kind::Data => Place::Field,
            Kind::Handle(handle, _) => Place::Handle(handle),
        };
        refuse_borrowed(&field.ty, mistakes);
        refuse_nested_handle(&field.ty, kind, mistakes);
        Self { member, serde: serde_attributes(&field.attrs, place, mistakes), ty: &field.ty, kind }
    }
}

/// Which handle it is, and the `T`, of a type that is written `Reply<T>` or `Replies<T>`, by whatever path.
fn handle(ty: &Type) -> Option<(Handle, &Type)> {
    match ty {
        Type::Group(group) => handle(&group.elem),
        Type::Paren(paren) => handle(&paren.elem),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            let handle = Handle::called(&last.ident)?;
            let PathArguments::AngleBracketed(list) = &last.arguments else { return None };
            match list.args.first() {
                Some(GenericArgument::Type(answer)) if list.args.len() == 1 => Some((handle, answer)),
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
                    fn from_wire(_: (), _: &#krate::__private::Origin) -> Self {
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

    /// Names the type and everything that decides how it is encoded, and the types that it is generic over.
    fn fingerprint(&self) -> TokenStream {
        let Self { krate, generics, .. } = self;
        let as_written = |part: &Part<'_>| (serde_tokens(&part.serde), part.ty.to_token_stream());
        let schema = self.definition(self.name, &Visibility::Inherited, as_written);
        let version = self.version.map_or_else(String::new, |version| format!(" version {version}"));
        let text = plainly(schema) + &version;
        let types = generics.type_params().map(|parameter| &parameter.ident);
        // The values of const parameters have no text: they are part of the whole type's name.
        let whole = generics.const_params().next().map(|_| quote!(.with_type::<Self>()));
        quote!(#krate::__private::Fingerprint::of(#text)#(.with_type::<#types>())* #whole)
    }

    /// The definition anew, with another name, and other attributes and types of the fields; without any attribute but serde's.
    fn definition(
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

    /// The arm of `into_wire`.
    fn there(&self, krate: &Path, generics: &Generics) -> TokenStream {
        let (ours, wire) = self.constructors();
        let pattern = self.pattern();
        let values = self.parts.iter().enumerate().map(|(index, part)| {
            let (member, value) = (&part.member, part.there(&part.binding(index), krate, generics));
            quote!(#member: #value)
        });
        quote!(#ours #pattern => ::core::result::Result::Ok(#wire { #(#values),* }),)
    }

    /// The arm of `from_wire`.
    fn back(&self, generics: &Generics) -> TokenStream {
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

    fn must_be_send(&self, krate: &Path) -> Option<TokenStream> {
        let ty = self.ty;
        (matches!(self.kind, Kind::Data) && !self.is_plain()).then(|| quote!(#krate::__private::must_be_send::<#ty>();))
    }

    fn is_plain(&self) -> bool {
        matches!(self.ty, Type::Path(path) if PLAIN.iter().any(|name| path.path.is_ident(name)))
    }

    /// With the span of what must be data, which is where the compiler points if a reply's answer is not.
    fn binding(&self, index: usize) -> Ident {
        let data = match self.kind {
            Kind::Data => self.ty,
            Kind::Handle(_, answer) => answer,
        };
        format_ident!("field{index}", span = Span::mixed_site().located_at(data.span()))
    }

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

fn mirror_name() -> Ident {
    Ident::new("__ClusterWire", Span::call_site())
}

fn origin_name() -> Ident {
    Ident::new("origin", Span::mixed_site())
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
    Handle(Handle),
}

/// The contents of all `#[serde(..)]`, one by one; refuses what cannot work here.
fn serde_attributes(attributes: &[Attribute], place: Place, mistakes: &mut Mistakes) -> Vec<Meta> {
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

/// The keys in `#[message(…)]`.
struct Keys {
    krate: Path,
    version: Option<u32>,
}

impl Keys {
    fn read(attributes: &[Attribute], mistakes: &mut Mistakes) -> Self {
        let mut keys = Self { krate: parse_quote!(::cluster), version: None };
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("message")) {
            if attribute.parse_args_with(|input: ParseStream<'_>| keys.take(input)).is_err() {
                let remedy = r#"write `#[message(crate = "path::to::cluster")]` or `#[message(version = 2)]`; there is no other key"#;
                mistakes.on(attribute, remedy);
            }
        }
        keys
    }

    fn take(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        while !input.is_empty() {
            let key = input.call(Ident::parse_any)?;
            input.parse::<Token![=]>()?;
            match key.to_string().as_str() {
                "crate" => self.krate = crate_path(&input.parse()?)?,
                "version" if self.version.is_none() => self.version = Some(input.parse::<LitInt>()?.base10_parse()?),
                _ => return Err(input.error("unknown")),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }
}

/// Every lifetime shows in some field, so the type's lifetime parameters need no word of their own.
fn refuse_borrowed(ty: &Type, mistakes: &mut Mistakes) {
    let borrows = find(ty.to_token_stream(), &|token, _| match token {
        TokenTree::Punct(mark) if matches!(mark.as_char(), '&' | '\'') => Some(()),
        _ => None,
    });
    if borrows.is_some() {
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

fn refuse_nested_handle(ty: &Type, kind: Kind<'_>, mistakes: &mut Mistakes) {
    let inside = match kind {
        Kind::Data => ty,
        Kind::Handle(_, answer) => answer,
    };
    let nested = find(inside.to_token_stream(), &|token, next| match token {
        TokenTree::Ident(name) if matches!(next, Some(TokenTree::Punct(mark)) if mark.as_char() == '<') => {
            Handle::called(name)
        }
        _ => None,
    });
    if let Some(handle) = nested {
        let (name, field) = (handle.name(), handle.maker());
        mistakes.on(
            ty,
            format_args!(
                "a `{name}` cannot travel inside another type: write the `{name}<T>` as a field of its own: \
                 `Variant {{ {field}: {name}<T> }}`"
            ),
        );
    }
}

/// What is found in any token, looked at together with the next.
fn find<T>(tokens: TokenStream, look: &impl Fn(&TokenTree, Option<&TokenTree>) -> Option<T>) -> Option<T> {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let inside = match &token {
            TokenTree::Group(group) => find(group.stream(), look),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
        };
        if let found @ Some(_) = inside.or_else(|| look(&token, tokens.peek())) {
            return found;
        }
    }
    None
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
                    Renamed { c: Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { c: std::vec::Vec<u8> },
                }
            ),
            quote!(
                enum M {
                    A(u8),
                    B { c: Vec<u8>, d: u8 },
                }
            ),
            quote!(
                enum M {
                    A(u8),
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
    fn the_version_is_part_of_the_fingerprint_and_the_crate_is_not() {
        let plain = fingerprint(quote!(
            struct M(u8);
        ));
        let with = |keys: TokenStream| {
            fingerprint(quote!(
                #[message(#keys)]
                struct M(u8);
            ))
        };
        assert_eq!(with(quote!(crate = "my::cluster")).replacen("my", "", 1).trim_start(), plain);
        let (first, second) = (with(quote!(version = 1)), with(quote!(crate = "::cluster", version = 2)));
        assert!(plain != first && first != second && second != plain, "{plain} {first} {second}");
    }

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
