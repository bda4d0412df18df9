//! What the user wrote, in our terms; whatever is wrong with it is found while it is read.

use syn::{Data, DeriveInput, Field, Fields, Generics, Ident, Member, Meta, Path, Type, Variant, Visibility};

use super::handle::{Handle, handle};
use super::keys::Keys;
use super::refused::{refuse_borrowed, refuse_nested_handle};
use super::serde::{Place, serde_attributes};
use crate::mistakes::Mistakes;

/// The type that is to be a message, in our terms.
pub(super) struct Message<'a> {
    pub(super) krate: Path,
    /// What the user raises when a type that a field names has changed.
    pub(super) version: Option<u32>,
    pub(super) visibility: &'a Visibility,
    pub(super) name: &'a Ident,
    pub(super) generics: &'a Generics,
    pub(super) serde: Vec<Meta>,
    pub(super) body: Body<'a>,
}

pub(super) enum Body<'a> {
    Struct(Case<'a>),
    Enum(Vec<Case<'a>>),
    /// Not to be expanded: the mistake is noted.
    Union,
}

/// A variant, or what a struct has in its place.
pub(super) struct Case<'a> {
    /// The variant's name; a struct has none here.
    pub(super) name: Option<&'a Ident>,
    pub(super) serde: Vec<Meta>,
    pub(super) fields: &'a Fields,
    pub(super) parts: Vec<Part<'a>>,
}

/// A field.
pub(super) struct Part<'a> {
    pub(super) member: Member,
    pub(super) serde: Vec<Meta>,
    pub(super) ty: &'a Type,
    pub(super) kind: Kind<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// Travels as it is.
    Data,
    /// A handle that answers by values of this type, and travels as a number.
    Handle(Handle, &'a Type),
}

impl<'a> Message<'a> {
    pub(super) fn read(input: &'a DeriveInput, mistakes: &mut Mistakes) -> Self {
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

    pub(super) fn cases(&self) -> &[Case<'a>] {
        match &self.body {
            Body::Struct(case) => std::slice::from_ref(case),
            Body::Enum(cases) => cases,
            Body::Union => &[],
        }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &Part<'a>> {
        self.cases().iter().flat_map(|case| &case.parts)
    }

    pub(super) fn has_handles(&self) -> bool {
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
